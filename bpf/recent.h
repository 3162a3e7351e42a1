/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * A cache of recent connections: the fast path, which nearly all packets take.
 *
 * THEORY OF OPERATION
 *
 * A packet passes without being judged if a packet of the same connection was judged
 * and passed a few milliseconds ago. Packets of an established connection cost about
 * 46 ns here instead of about 247 ns. The entry must agree in everything:
 *
 *   - five-tuple, interface and direction; of what a pod sends, the frame's source too,
 *     by which it was judged (own_frames.h);
 *   - the epoch. It changes with every change of policy, addresses or endpoints, so
 *     the very first packet after the switch is judged again (judge.h);
 *   - age: less than RECENT_TICKS. One packet per period takes the slow path, which
 *     updates last_ns of the connection, so that a busy connection does not expire.
 *
 * SYN, FIN and RST change a connection's state and always take the slow path, like
 * fragments and anything else that parse_plain() does not accept.
 *
 * Example: a SYN at tick 1000 and the first ACK take the slow path, and the ACK fills
 * the cache. ACKs until tick 1007 pass here. The first one at tick 1008 takes the slow
 * path and refreshes the entry. If policy changes at tick 1003, the next ACK finds
 * another epoch and is judged under the new policy.
 */
#ifndef KUBEWEIR_RECENT_H
#define KUBEWEIR_RECENT_H

/* In jiffies (1 to 10 ms each), which cost nothing to read, unlike a clock. Far below every connection timeout. */
#define RECENT_TICKS 8
#define RECENTS_BITS 10

struct recent {
	u8 source[16];
	u8 destination[16];
	u16 source_port;
	u16 destination_port;
	u32 ifindex;
	u32 epoch;
	u32 tick;
	u32 endpoint;
	u32 hash;
	u8 protocol;
	u8 direction;
	u8 stamped; /* the exit judges it too, and needs an origin: hash and confirm are its fields */
	u8 confirm;
	u64 link; /* EGRESS: as in struct packet */
#ifdef ENDS
	u32 place; /* of the connection that the packets are counted for, while its traffic has this serial (ends.h) */
	u32 serial;
#endif
} __attribute__((aligned(8)));

/* Per CPU, so that no other CPU reads a half-written entry. Connections with one index replace each other. */
BPF_F_TABLE("percpu_array", u32, struct recent, recents, 1 << RECENTS_BITS, 0);

static __always_inline struct recent *recent_of(const struct packet *packet)
{
	u32 source = ((const u64 *)packet->source)[1] >> 32, destination = ((const u64 *)packet->destination)[1] >> 32;
	u32 ports = (u32)packet->source_port << 16 | packet->destination_port;
	/* Multiplying by odd constants carries differences in the low bits to the high bits, which are the index. */
	u32 mixed = source * 0x9e3779b1 ^ destination * 0x85ebca6b ^ ports * 0xc2b2ae35;
	u32 index = mixed >> (32 - RECENTS_BITS);

	return recents.lookup(&index);
}

static __always_inline bool stamp_recent(struct __sk_buff *skb, const struct packet *packet,
					 const struct recent *recent)
{
	u32 hash = bpf_get_hash_recalc(skb);
	struct origin *slot;

	/* The slow path stores the new hash. */
	if (hash != recent->hash)
		return 0;
	slot = take_slot(skb);
	if (!slot)
		return 0;
	write_origin(slot, skb, packet, recent->endpoint, hash, bpf_ktime_get_ns());
	slot->confirm = recent->confirm;
#ifdef ENDS
	slot->counted = count_of(skb->len, recent->serial);
#endif
	return 1;
}

/* Whether the packet, which parse_plain() has accepted, may pass without being judged. */
static __always_inline bool passed_recently(struct __sk_buff *skb, const struct packet *packet, const u32 direction)
{
	struct recent *recent;

	if (packet->tcp_flags & (TCP_SYN | TCP_FIN | TCP_RST))
		return 0;
	recent = recent_of(packet);
	if (!recent || (u32)bpf_jiffies64() - recent->tick >= RECENT_TICKS ||
	    recent->epoch != (u32)setting(CONFIG_EPOCH))
		return 0;
	if (!equal(recent->source, packet->source) || !equal(recent->destination, packet->destination) ||
	    recent->source_port != packet->source_port || recent->destination_port != packet->destination_port ||
	    recent->protocol != packet->protocol || recent->direction != direction || recent->ifindex != skb->ifindex)
		return 0;
	if (direction == EGRESS && recent->link != packet->link)
		return 0;
#ifdef ENDS
	struct traffic *counted = traffic_of(recent->place);

	/* The connection was evicted, or has got another place. */
	if (!counted || counted->serial != recent->serial)
		return 0;
	if (direction == EGRESS && recent->stamped && !stamp_recent(skb, packet, recent))
		return 0;
	add_packet(counted, direction, skb->len, recent->serial);
	return 1;
#else
	return direction == INGRESS || !recent->stamped || stamp_recent(skb, packet, recent);
#endif
}

/* Fill the cache: the packet was judged and passes, and the next ones of its connection would too. */
static __always_inline void remember_passing(struct __sk_buff *skb, const struct work *w, u32 direction, bool stamped)
{
	const struct packet *packet = &w->packet;
	struct recent *recent;

	/* The source of a frame is known if parse_plain() has accepted it. */
	if (w->key.role || (direction == EGRESS && !packet->link))
		return;
	recent = recent_of(packet);
	if (!recent)
		return;
	__builtin_memcpy(recent->source, packet->source, 16);
	__builtin_memcpy(recent->destination, packet->destination, 16);
	recent->source_port = packet->source_port;
	recent->destination_port = packet->destination_port;
	recent->ifindex = skb->ifindex;
	recent->epoch = w->epoch;
	recent->tick = bpf_jiffies64();
	recent->endpoint = w->key.endpoint;
	recent->protocol = packet->protocol;
	recent->direction = direction;
	recent->stamped = stamped;
	recent->link = packet->link;
	if (stamped) {
		recent->hash = w->origin.hash;
		recent->confirm = w->origin.confirm;
	}
#ifdef ENDS
	recent->place = w->counted;
	recent->serial = w->serial;
#endif
}

#endif
