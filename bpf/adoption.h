/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Adoption: mid-flow packets, which open no connection and meet no entry.
 *
 * THEORY OF OPERATION
 *
 * A TCP packet without SYN may belong to a connection that is older than the programs,
 * that was idle for longer than TIMEOUT_TCP, or whose entry was evicted. The packet
 * itself does not show who opened the connection, and a pod with NET_RAW can send such
 * packets at will. The node knows: nf_conntrack has seen the first packet.
 *
 *   1. The packet is judged in its own direction, as a new connection is. If policy
 *      allows that, it passes and creates an entry, which lasts no longer than a SYN's
 *      until the other end answers.
 *   2. Otherwise it is dropped with the reason "unknown_flow", and its key goes to the
 *      ring unknown_flows: once a second for a flow, LOOKUPS times for an account. Who
 *      sent the packet pays for the look-up (budgets.h). So a pod that floods another one
 *      with such packets uses up its own look-ups, and a host outside uses up those that
 *      the other pod has for packets from outside. Each account has a reserve, so that
 *      all pods together cannot take the look-ups of one.
 *   3. probe/adoption.py looks it up in nf_conntrack. If the other end opened the
 *      connection, the probe writes an entry with that direction, and with the peer
 *      that a Service or a masquerade hides. It is marked CONNECTION_ADOPTED and has an
 *      epoch that is never in force. Nothing is written otherwise.
 *   4. TCP sends the packet again. It finds the entry, whose verdict is stale, and so
 *      the connection is judged in its original direction, as after a change of policy.
 *      If it passes, the entry becomes an ordinary one, with the reason "adopted".
 *
 * When programs are first attached to an interface, the probe writes entries for all of
 * its pod's connections in the same way, so that each is judged at its next packet.
 *
 * A SYN with ACK is always an answer. Without an entry it passes only if policy allows
 * both its own direction and the one that it answers: otherwise a pod that policy closes
 * would accept connections while only its egress is under policy. UDP and SCTP have no
 * such sign of an open connection, so they are looked up only just after the attach.
 *
 * Example: pod 10.244.1.7 may not be called. It has been connected to 203.0.113.9:443
 * for a day without a packet, and the server sends data. That is ingress from 203.0.113.9,
 * which policy denies: it is dropped and looked up. The server sends again after 200 ms;
 * the entry now says EGRESS, policy allows that, and the data arrives.
 */
#ifndef KUBEWEIR_ADOPTION_H
#define KUBEWEIR_ADOPTION_H

/* How long after the attach a UDP or SCTP packet may be the reply of an older connection. */
#define ADOPTION (60 * SECOND)
/* Flows that an account may have looked up in one period of 2^30 ns, about a second. */
#define LOOKUPS 64
#define LOOKUP_PERIOD(now) ((u32)((now) >> 30))

/* The interface is older than the programs, and they were attached a moment ago. */
static __always_inline bool is_just_attached(const struct endpoint *endpoint, u64 now)
{
	return endpoint->attached_ns && now - endpoint->attached_ns < ADOPTION;
}

/* Whether a packet without an entry may belong to a connection that was opened earlier. */
static __always_inline bool may_be_older(const struct endpoint *endpoint, const struct packet *packet, u64 now)
{
	if (packet->protocol == PROTOCOL_TCP)
		return !is_new_tcp(packet);
	return (packet->protocol == PROTOCOL_UDP || packet->protocol == PROTOCOL_SCTP) &&
	       is_just_attached(endpoint, now);
}

static __always_inline bool is_answer(const struct packet *packet)
{
	return (packet->tcp_flags & (TCP_SYN | TCP_ACK)) == (TCP_SYN | TCP_ACK);
}

/* Whether the flow may be looked up now. Then w->payer pays for it. */
static __always_inline bool may_look_up(struct work *w, struct connection_key *key)
{
	u64 *last = looked_up.lookup(key);
	struct budget *budget;

	if (last && w->now - *last < SECOND)
		return 0;
	budget = find_payer(w);
	if (!budget)
		return 0;
	if (may_take(budget, w->payer.account, COUNTED_LOOKUPS, LOOKUP_PERIOD(w->now), LOOKUPS, LOOKUPS_IN_PERIOD)) {
		looked_up.update(key, &w->now);
		return 1;
	}
	/* The probe reads all connections of the pod instead, unless another pod has sent the packet. */
	if (w->payer.endpoint == key->endpoint)
		__sync_fetch_and_add(&budget->spared, 1);
	return 0;
}

/* Have the probe look the packet's flow up. At an exit, nf_conntrack knows the destination before DNAT. */
static __always_inline void look_up(struct work *w, const struct endpoint *endpoint, u32 direction)
{
	struct unknown_flow *flow = &w->unknown_flow;

	flow->key = w->key;
	if (!is_zero(w->dialled)) {
		__builtin_memcpy(flow->key.remote, w->dialled, 16);
		flow->key.remote_port = w->dialled_port;
	}
	if (!may_look_up(w, &flow->key)) {
		count(COUNT_LOOKUPS_SPARED);
		return;
	}
	flow->payer = w->payer.endpoint;
	flow->account = w->payer.account;
	flow->direction = direction;
	flow->just_attached = is_just_attached(endpoint, w->now);
	if (unknown_flows.ringbuf_output(flow, sizeof(*flow), 0))
		count(COUNT_LOOKUPS_SPARED);
}

/* Whether nf_conntrack knows that the destination is another one than was dialled, a pod of this node or not. */
static __always_inline bool is_behind_nat(const struct connection *connection)
{
	return (connection->state & (CONNECTION_ADOPTED | CONNECTION_DIALLED)) ==
	       (CONNECTION_ADOPTED | CONNECTION_DIALLED);
}

/* Copy to a fresh entry what nf_conntrack knows of the connection. */
static __always_inline void keep_adopted(struct connection *fresh, const struct connection *adopted)
{
	fresh->state |= adopted->state & ~CONNECTION_ADOPTED;
	__builtin_memcpy(fresh->other, adopted->other, 16);
	fresh->other_port = adopted->other_port;
}

#endif
