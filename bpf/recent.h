/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The short way: a packet passes if one of the same connection passed a moment
 * ago, by the long way, at the same interface in the same direction and under
 * the same epoch. The epoch moves with every change of policy, addresses and
 * endpoints, so that what is remembered is never older than they are. What
 * opens or closes a connection, fragments and whatever is not plain takes the
 * long way, and so does one packet in every RECENT_TICKS: by it the connection's
 * entry knows that it is in use.
 */
#ifndef KUBEWEIR_RECENT_H
#define KUBEWEIR_RECENT_H

/* In ticks of the kernel (1 to 10 ms each), to be had without asking a clock: far below every timeout of a connection. */
#define RECENT_TICKS 8
#define RECENTS_BITS 10

/* A cache line each. */
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
	u8 stamped;	/* the exit judges it too: what struct origin says of it is here */
	u8 confirm;
	u32 padding;
} __attribute__((aligned(8)));

/* A CPU's own: nobody sees an entry that is half written. A connection may take the place of another. */
BPF_F_TABLE("percpu_array", u32, struct recent, recents, 1 << RECENTS_BITS, 0);

static __always_inline struct recent *recent_of(const struct packet *packet)
{
	u32 source = ((const u64 *)packet->source)[1] >> 32, destination = ((const u64 *)packet->destination)[1] >> 32;
	u32 ports = (u32)packet->source_port << 16 | packet->destination_port;
	/* Odd constants carry what differs in the low bits to the high ones. */
	u32 mixed = source * 0x9e3779b1 ^ destination * 0x85ebca6b ^ ports * 0xc2b2ae35;
	u32 index = mixed >> (32 - RECENTS_BITS);

	return recents.lookup(&index);
}

static __always_inline bool stamp_lately(struct __sk_buff *skb, const struct packet *packet,
					 const struct recent *recent)
{
	u32 hash = bpf_get_hash_recalc(skb);
	struct origin *slot;

	/* By the long way the new hash is written down. */
	if (hash != recent->hash)
		return 0;
	slot = take_slot(skb);
	if (!slot)
		return 0;
	write_origin(slot, skb, packet, recent->endpoint, hash, bpf_ktime_get_ns());
	slot->confirm = recent->confirm;
	return 1;
}

/* packet: what parse_plain() has made of it. */
static __always_inline bool passed_lately(struct __sk_buff *skb, const struct packet *packet, const u32 direction)
{
	struct recent *recent;

	if (packet->tcp_flags & (TCP_SYN | TCP_FIN | TCP_RST))
		return 0;
	recent = recent_of(packet);
	if (!recent || (u32)bpf_jiffies64() - recent->tick >= RECENT_TICKS || recent->epoch != (u32)setting(CONFIG_EPOCH))
		return 0;
	if (!same(recent->source, packet->source) || !same(recent->destination, packet->destination) ||
	    recent->source_port != packet->source_port || recent->destination_port != packet->destination_port ||
	    recent->protocol != packet->protocol || recent->direction != direction || recent->ifindex != skb->ifindex)
		return 0;
	return direction == INGRESS || !recent->stamped || stamp_lately(skb, packet, recent);
}

/* A packet has passed by the long way, and its connection's next ones would. */
static __always_inline void remember_passage(struct __sk_buff *skb, const struct work *w, u32 direction, bool stamped)
{
	const struct packet *packet = &w->packet;
	struct recent *recent;

	if (w->key.role)
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
	if (stamped) {
		recent->hash = w->origin.hash;
		recent->confirm = w->origin.confirm;
	}
}

#endif
