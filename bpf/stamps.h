/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Stamps: how the exit hook learns who sent a packet, and to where.
 *
 * THEORY OF OPERATION
 *
 * kube-proxy turns a Service's address into a backend's, and a masquerade turns a
 * pod's source address into the node's. Both happen between the pod's hook and the
 * device by which the packet leaves. Policy needs the true source and the final
 * destination, and no single place sees both, so the two hooks co-operate. Say pod
 * 10.244.1.7 (interface 12, endpoint 3) connects to the Service 10.96.0.10:80:
 *
 *   1. The pod's hook sees the dialled address 10.96.0.10. It cannot judge that, so
 *      it defers the verdict: the connection becomes CONNECTION_DIALLED and pending.
 *   2. It writes an origin {source 10.244.1.7, destination 10.96.0.10:80, endpoint 3,
 *      interface 12, hash} to the CPU's next slot, say 130, and 131 to skb->tc_index.
 *      Neither NAT nor routing touches tc_index. The origin is stored by skb->hash as
 *      well, once a second, for packets that lose tc_index on their way. It is deleted
 *      with its connection, so a pod that opens many has no more origins than places
 *      (places.h), and takes none from another pod.
 *   3. NAT changes the packet: now from the node's address to 203.0.113.9:8080.
 *   4. The exit hook, on the egress of every device that is not a pod's, reads slot
 *      130. Slots are reused after SLOTS packets, so it believes the slot only if hash,
 *      protocol and age fit. It judges 10.244.1.7 -> 203.0.113.9:8080.
 *   5. The verdict is written to the connection to the dialled address too (confirm),
 *      so that replies, which come from 10.96.0.10 again, follow it.
 *   6. The exit hook clears tc_index: the far side must not see it.
 *   7. While one generation of maps takes over from another (probe/kernel/generations.py),
 *      the exit may belong to the other one, in whose table step 5 finds no connection to the
 *      dialled address. It leaves 203.0.113.9:8080 in the map backends, which all generations
 *      share. The answer finds that there, and is judged by the pod's own generation.
 *
 * Any address may be changed by DNAT: by a rule for a hostPort, by a Service whose
 * external IP is a pod's address. So the pod's hook judges what is not a Service's
 * address at once, and the exit judges it again:
 *
 *   - Packets to a node's or an outside address carry a slot, all of them.
 *   - Of a connection to a pod's address, the first packet carries a slot, until the
 *     exit has seen one (CHECK_DUE), and one packet a second does afterwards. The others
 *     carry STAMP_JUDGED.
 *   - If the exit finds another destination than the dialled one, its verdict on the
 *     final destination replaces the pod hook's, and all packets of the connection carry
 *     slots from then on, as those to a Service do.
 *
 * A packet without a stamp that fits is attributed by its hash, then by its source
 * address if that is a local pod's. If it is certainly a pod's packet but the pod
 * cannot be determined, it is dropped (ORIGIN_HIDDEN, reason "no_origin"). The exit
 * hook lets a packet with STAMP_JUDGED pass.
 */
#ifndef KUBEWEIR_STAMPS_H
#define KUBEWEIR_STAMPS_H

/* How old an origin may be: a packet that waited for neighbour resolution was measured at 2 s. */
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
	origin->fragment = packet->fragment;
	origin->endpoint = endpoint;
	origin->ifindex = skb->ifindex;
	origin->hash = hash;
}

static __always_inline void fill_origin(struct __sk_buff *skb, struct work *w)
{
	write_origin(&w->origin, skb, &w->packet, w->key.endpoint, bpf_get_hash_recalc(skb), w->now);
#ifdef ENDS
	w->origin.counted = 0; /* tell_exit() says it later */
#endif
}

/*
 * Take the next slot and write its number into the packet. A CPU takes CHUNK slots in
 * sequence, then jumps by CPU_STRIDE chunks. Two CPUs rarely meet in one chunk, and if
 * they overwrite each other's slot, the hash does not fit.
 */
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

/* Stamp a packet of a connection; renew the origin under its hash once in about a second (2^30 ns), not per packet. */
static __always_inline void stamp_connection(struct __sk_buff *skb, struct work *w, struct connection *connection,
					     bool fresh)
{
	fill_origin(skb, w);
	w->origin.confirm = !(connection->state & CONNECTION_OTHER) || !passes(connection->verdict);
	if (fresh || connection->hash != w->origin.hash || w->now >> 30 != connection->last_ns >> 30) {
		if (connection->hash != w->origin.hash)
			delete_origin(connection->hash, w->origin.endpoint);
		connection->hash = w->origin.hash;
		origins.update(&w->origin.hash, &w->origin);
	}
	stamp(skb, w);
}

/* Without an origin under its hash: if the packet loses its stamp, its source tells who sent it. */
static __always_inline void stamp_for_check(struct __sk_buff *skb, struct work *w)
{
	fill_origin(skb, w);
	w->origin.confirm = 1;
	stamp(skb, w);
}

enum found {
	ORIGIN_NONE, /* not a local pod's packet */
	ORIGIN_FOUND,
	ORIGIN_HIDDEN, /* a pod's packet, but it is unknown which pod's */
};

/* From libc's sys/socket.h and the kernel's errno-base.h, which the shim headers leave out. */
#define AF_INET 2
#define ENODEV 19

/*
 * Whether a packet without a stamp that fits can be from the pod behind an interface.
 * An address, and with it a hash, passes to a successor pod as soon as that pod has
 * it, and user space learns of that later. So:
 *
 *   - It arrived through the interface itself: yes.
 *   - It arrived through a younger device (a higher index): no, the device may be
 *     the successor's interface.
 *   - It arrived through an older device, such as a bridge that both pods are ports
 *     of: yes, if the interface still exists, because two ports of a bridge cannot have
 *     one address. bpf_fib_lookup answers that: it returns -ENODEV for a device that
 *     is gone before it looks at anything else (bpf_ipv4_fib_lookup in
 *     net/core/filter.c), for packets of either family.
 */
static __always_inline bool is_there(struct __sk_buff *skb, u32 ifindex)
{
	struct bpf_fib_lookup query = {.family = AF_INET, .ifindex = ifindex};

	return bpf_fib_lookup(skb, &query, sizeof(query), BPF_FIB_LOOKUP_DIRECT) != -ENODEV;
}

static __always_inline bool may_be_from(struct __sk_buff *skb, u32 ifindex)
{
	if (skb->ingress_ifindex == ifindex)
		return 1;
	if (skb->ingress_ifindex > ifindex)
		return 0;
	return is_there(skb, ifindex);
}

static __always_inline bool fits(const struct origin *origin, const struct work *w, u32 hash)
{
	return origin->hash == hash && origin->protocol == w->packet.protocol && origin->time_ns <= w->now &&
	       w->now - origin->time_ns < STAMP_AGE;
}

/*
 * Whether an origin under the packet's hash is its sender's. Hashes collide: the source must be the origin's, or the
 * node's, which a masquerade has put there.
 */
static __always_inline bool is_sender(struct __sk_buff *skb, const struct origin *origin, const struct work *w,
				      u32 hash, u32 local)
{
	return fits(origin, w, hash) && (equal(origin->source, w->packet.source) || local == LOCAL_NODE) &&
	       may_be_from(skb, origin->ifindex);
}

/* Find the sender of a packet that leaves here: by its stamp, else by its hash, else by its source address. */
static __always_inline enum found find_origin(struct __sk_buff *skb, struct work *w, u32 stamped)
{
	u32 hash = bpf_get_hash_recalc(skb), index = stamped - 1, from = skb->ingress_ifindex, local;
	struct endpoint *endpoint;
	struct origin *origin;

	if (index < SLOTS) {
		origin = slots.lookup(&index);
		/* A younger device may have no program yet that clears stamps (sources.h). */
		if (origin && fits(origin, w, hash) && from <= origin->ifindex) {
			w->origin = *origin;
			return ORIGIN_FOUND;
		}
	}
	local = local_ifindex(w, w->packet.source);
	origin = origins.lookup(&hash);
	if (origin && is_sender(skb, origin, w, hash, local)) {
		w->origin = *origin;
#ifdef ENDS
		w->origin.counted = 0; /* that of another packet */
#endif
		return ORIGIN_FOUND;
	}
	if (local != LOCAL_NODE && local != LOCAL_NONE) {
		endpoint = endpoint_at(w, local);
		/* The interface has been replaced. */
		if (!endpoint || !may_be_from(skb, local))
			return ORIGIN_HIDDEN;
		w->key.endpoint = endpoint->number;
		fill_origin(skb, w);
		w->origin.ifindex = local;
		w->origin.confirm = 0;
		return ORIGIN_FOUND;
	}
	/* An interface without an endpoint may send from an address that no pod has. */
	index = hash % UNREADY_ORIGINS;
	origin = unready_origins.lookup(&index);
	if (origin && is_sender(skb, origin, w, hash, local)) {
		w->origin = *origin;
		return ORIGIN_FOUND;
	}
	endpoint = endpoint_at(w, from);
	if (endpoint)
		w->key.endpoint = endpoint->number;
	/* Every packet from a pod has a stamp. This one has lost it, and a masquerade has replaced its source. */
	if (stamped - 1 >= SLOTS)
		return endpoint && local == LOCAL_NODE ? ORIGIN_HIDDEN : ORIGIN_NONE;
	return endpoint || local == LOCAL_NODE ? ORIGIN_HIDDEN : ORIGIN_NONE;
}

/* Set w->dialled to the destination before DNAT, if DNAT has changed it. */
static __always_inline void fill_dialled(struct work *w)
{
	const struct origin *origin = &w->origin;

	if (equal(origin->destination, w->packet.destination) && origin->destination_port == w->packet.destination_port)
		return;
	/* The ports of a later fragment are unknown. */
	if (w->packet.fragment == FRAGMENT_LATER)
		return;
	__builtin_memcpy(w->dialled, origin->destination, 16);
	w->dialled_port = w->key.role ? 0 : origin->destination_port;
}

/* Return the key of the connection to the dialled address, which replies follow; at an exit, w->key has the backend's. */
static __always_inline struct connection_key dialled_key(const struct work *w)
{
	struct connection_key dialled = w->key;

	__builtin_memcpy(dialled.remote, w->dialled, 16);
	dialled.remote_port = w->key.role ? 0 : w->dialled_port;
	return dialled;
}

static __always_inline struct connection *dialled_connection(const struct work *w)
{
	struct connection_key dialled = dialled_key(w);

	return connections.lookup(&dialled);
}

static __always_inline void set_backend(struct connection *connection, const u8 *address, u16 port)
{
	__builtin_memcpy(connection->other, address, 16);
	connection->other_port = port;
	connection->state |= CONNECTION_OTHER | CONNECTION_DIALLED | CONNECTION_EXIT;
	connection->state &= ~CONNECTION_FROM_NODE;
	connection->check = 0;
}

/* The table has no connection to the dialled address: leave the backend where the pod's hook finds it. */
static __always_inline void leave_backend(const struct work *w)
{
	struct connection_key dialled = dialled_key(w);
	struct backend backend = {.time_ns = w->now, .port = w->key.remote_port};

	__builtin_memcpy(backend.address, w->key.remote, 16);
	backends.update(&dialled, &backend);
}

/*
 * An answer meets a connection that no exit of this generation has confirmed. If one of another generation has admitted
 * the last packet that the pod has sent, the connection gets its backend. It stays pending until the answer is judged by
 * that, so the other generation's verdict admits nothing here. Return 0 otherwise.
 */
static __always_inline bool take_backend(struct connection *connection, const struct work *w)
{
	struct backend *backend = backends.lookup((struct connection_key *)&w->key);

	if (!backend || backend->time_ns < connection->last_ns)
		return 0;
	set_backend(connection, backend->address, backend->port);
	return 1;
}

/* Copy the exit's verdict and the backend to the connection to the dialled address, which goes to the exit from now on. */
static __always_inline void confirm(struct work *w)
{
	struct connection *connection = dialled_connection(w);

	if (!connection) {
		if (passes(w->decision.verdict))
			leave_backend(w);
		return;
	}
	if (connection->direction != EGRESS)
		return;
	set_backend(connection, w->key.remote, w->key.remote_port);
	connection->rule = w->decision.rule;
	connection->identity = w->decision.identity;
	connection->verdict = w->decision.verdict;
	connection->reason = w->decision.reason;
	connection->epoch = w->epoch;
}

#endif
