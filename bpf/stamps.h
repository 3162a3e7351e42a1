/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What the pod's hook tells the way out: who sent the packet, to where. In a slot
 * whose number goes along in skb->tc_index, and by the flow's hash.
 */
#ifndef KUBEWEIR_STAMPS_H
#define KUBEWEIR_STAMPS_H

/* How long a stamp may be on its way: a packet behind a slow neighbour look-up was 2 s old. */
#define STAMP_AGE (4 * SECOND)

static __always_inline void write_origin(struct origin *origin, struct __sk_buff *skb, const struct packet *packet,
					 u32 endpoint, u32 hash, u64 now)
{
	origin->time_ns = now;
	__builtin_memcpy(origin->source, packet->source, 16);
	__builtin_memcpy(origin->destination, packet->destination, 16);
	origin->source_port = packet->source_port;
	origin->destination_port = packet->destination_port;
	origin->protocol = packet->protocol;
	origin->endpoint = endpoint;
	origin->ifindex = skb->ifindex;
	origin->hash = hash;
}

static __always_inline void note_origin(struct __sk_buff *skb, struct work *w)
{
	write_origin(&w->origin, skb, &w->packet, w->key.endpoint, bpf_get_hash_recalc(skb), w->now);
}

/* A slot a packet, in turn, and its number into the packet. Each CPU goes through all chunks by itself: that two write
 * one slot at once is seldom, and seen by the hash. */
static __always_inline struct origin *take_slot(struct __sk_buff *skb)
{
	u32 zero = 0, *cursor = cursors.lookup(&zero), turn, index;
	struct origin *slot;

	if (!cursor)
		return 0;
	turn = (*cursor)++;
	index = (turn / CHUNK * CPU_STRIDE + bpf_get_smp_processor_id()) % CHUNKS * CHUNK + turn % CHUNK;
	slot = slots.lookup(&index);
	if (slot)
		skb->tc_index = index + 1;
	return slot;
}

static __always_inline void stamp(struct __sk_buff *skb, struct work *w)
{
	struct origin *slot = take_slot(skb);

	if (slot)
		*slot = w->origin;
}

/* By the flow, so that what tells the origin by hash alone is written once a second, not once a packet. */
static __always_inline void stamp_flow(struct __sk_buff *skb, struct work *w, struct flow *flow, bool fresh)
{
	note_origin(skb, w);
	w->origin.confirm = !(flow->state & FLOW_OTHER) || !passes(flow->verdict);
	if (fresh || flow->hash != w->origin.hash || w->now >> 30 != flow->last_ns >> 30) {
		flow->hash = w->origin.hash;
		origins.update(&w->origin.hash, &w->origin);
	}
	stamp(skb, w);
}

enum found {
	ORIGIN_NONE,	/* no local pod's packet */
	ORIGIN_FOUND,
	ORIGIN_HIDDEN,	/* a pod's, and nothing says whose */
};

/* Of libc's headers, and of the kernel's own. */
#define AF_INET 2
#define ENODEV 19

/*
 * Whether what came without a stamp that fits can be of the pod behind this
 * interface. Its address, and a flow's hash, are the next pod's as soon as that
 * has the same address, which user space hears later. What came in by the
 * interface itself is its pod's. By another one only through a device that a
 * packet crosses on its way, a bridge: one that is younger than the interface
 * is the next pod's. Or the next pod's is behind the bridge too: then the
 * interface is gone, for no two ports have one address. The kernel is asked for
 * a route from it, of which but one answer counts: no such device (net/core/
 * filter.c, bpf_ipv4_fib_lookup, looks it up before all else, whatever the
 * packet's family).
 */
static __always_inline bool may_be_from(struct __sk_buff *skb, u32 ifindex)
{
	struct bpf_fib_lookup asked = {.family = AF_INET, .ifindex = ifindex};

	if (skb->ingress_ifindex == ifindex)
		return 1;
	if (skb->ingress_ifindex > ifindex)
		return 0;
	return bpf_fib_lookup(skb, &asked, sizeof(asked), BPF_FIB_LOOKUP_DIRECT) != -ENODEV;
}

static __always_inline bool fits(const struct origin *origin, const struct work *w, u32 hash)
{
	return origin->hash == hash && origin->protocol == w->packet.protocol && origin->time_ns <= w->now &&
	       w->now - origin->time_ns < STAMP_AGE;
}

/* Who sent what leaves here: by the stamp, else by its hash, else by a pod's address that can be seen. */
static __always_inline enum found find_origin(struct __sk_buff *skb, struct work *w, u32 stamped)
{
	u32 hash = bpf_get_hash_recalc(skb), index = stamped - 1, from = skb->ingress_ifindex;
	struct local_key source = {};
	struct endpoint *endpoint;
	struct origin *origin;
	u32 *local;

	if (index < SLOTS) {
		origin = slots.lookup(&index);
		if (origin && fits(origin, w, hash)) {
			w->origin = *origin;
			return ORIGIN_FOUND;
		}
	}
	__builtin_memcpy(source.address, w->packet.source, 16);
	local = locals.lookup(&source);
	origin = origins.lookup(&hash);
	/* A hash may be a stranger's too: the source is the same, or a masquerade has put the node's there. */
	if (origin && fits(origin, w, hash) &&
	    (same(origin->source, w->packet.source) || (local && !*local)) && may_be_from(skb, origin->ifindex)) {
		w->origin = *origin;
		return ORIGIN_FOUND;
	}
	if (local && *local) {
		from = *local;
		endpoint = endpoints.lookup(&from);
		/* Nobody's yet, or nobody's any more. */
		if (!endpoint || !may_be_from(skb, from))
			return ORIGIN_HIDDEN;
		w->key.endpoint = endpoint->number;
		note_origin(skb, w);
		w->origin.ifindex = from;
		w->origin.confirm = 0;
		return ORIGIN_FOUND;
	}
	if (index >= SLOTS)
		return ORIGIN_NONE;
	endpoint = endpoints.lookup(&from);
	if (endpoint)
		w->key.endpoint = endpoint->number;
	return endpoint || local ? ORIGIN_HIDDEN : ORIGIN_NONE;
}

/* The destination that was dialled, where DNAT has changed it. */
static __always_inline void note_dialled(struct work *w)
{
	const struct origin *origin = &w->origin;

	if (same(origin->destination, w->packet.destination) &&
	    origin->destination_port == w->packet.destination_port)
		return;
	/* Of a later fragment no port is known. */
	if (w->packet.fragment == FRAGMENT_LATER)
		return;
	__builtin_memcpy(w->dialled, origin->destination, 16);
	w->dialled_port = w->key.role ? 0 : origin->destination_port;
}

/* What the exit found, for the flow of the dialled address: its replies pass by that, and are judged again by that. */
static __always_inline void confirm(struct work *w)
{
	struct flow_key dialled = w->key;
	struct flow *flow;

	__builtin_memcpy(dialled.remote, w->dialled, 16);
	dialled.remote_port = w->key.role ? 0 : w->dialled_port;
	flow = flows.lookup(&dialled);
	if (!flow || flow->direction != EGRESS)
		return;
	__builtin_memcpy(flow->other, w->key.remote, 16);
	flow->other_port = w->key.remote_port;
	flow->state = (flow->state | FLOW_OTHER) & ~FLOW_FROM_NODE;
	if (!(flow->state & FLOW_DIALLED))
		return;
	flow->rule = w->decision.rule;
	flow->identity = w->decision.identity;
	flow->verdict = w->decision.verdict;
	flow->reason = w->decision.reason;
	flow->epoch = w->epoch;
}

#endif
