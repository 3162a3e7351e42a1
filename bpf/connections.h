/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The table of connections: how a packet is found in it, how long an entry lasts,
 * and how many a pod may have.
 */
#ifndef KUBEWEIR_CONNECTIONS_H
#define KUBEWEIR_CONNECTIONS_H

/* As nf_conntrack's defaults, but an established TCP flow in hours: a later packet is adopted again. */
#define TIMEOUT_TCP (6 * 3600 * SECOND)
#define TIMEOUT_TCP_UNANSWERED (120 * SECOND)
#define TIMEOUT_TCP_CLOSING (120 * SECOND)
#define TIMEOUT_ANSWERED (180 * SECOND)
#define TIMEOUT_UNANSWERED (30 * SECOND)
/* Places that a new connection looks at for one that is not in use. */
#define SECOND_CHANCES 4
/* How long after the attach a flow without a TCP state may be taken for an older one's reply. */
#define ADOPTION (60 * SECOND)

static __always_inline void flow_of(struct flow_key *key, const struct packet *packet, u32 direction)
{
	bool echo = is_echo_request(packet);

	key->protocol = packet->protocol;
	if (direction == EGRESS) {
		__builtin_memcpy(key->local, packet->source, 16);
		__builtin_memcpy(key->remote, packet->destination, 16);
		key->local_port = packet->source_port;
		key->remote_port = packet->destination_port;
	} else {
		__builtin_memcpy(key->local, packet->destination, 16);
		__builtin_memcpy(key->remote, packet->source, 16);
		key->local_port = packet->destination_port;
		key->remote_port = packet->source_port;
	}
	if (packet->protocol != PROTOCOL_ICMP && packet->protocol != PROTOCOL_ICMPV6)
		return;
	/* An echo request is never a reply: the side that asks is part of the key. */
	key->role = ROLE_ICMP + direction;
	key->local_port = packet->destination_port;
	key->remote_port = 0;
	if (echo || is_echo_reply(packet)) {
		key->role = ROLE_ECHO + (echo ? direction : !direction);
		key->local_port = packet->source_port;
	}
}

static __always_inline bool is_over(const struct flow *flow, u8 protocol, u64 now)
{
	u64 age = now - flow->last_ns, limit = TIMEOUT_UNANSWERED;

	/* Another CPU may have written a later time. */
	if (now < flow->last_ns)
		return 0;
	if (protocol == PROTOCOL_TCP)
		limit = flow->state & FLOW_CLOSING   ? TIMEOUT_TCP_CLOSING
			: flow->state & FLOW_REPLIED ? TIMEOUT_TCP
						     : TIMEOUT_TCP_UNANSWERED;
	else if (flow->state & FLOW_REPLIED)
		limit = TIMEOUT_ANSWERED;
	return age > limit;
}

/* A SYN is always judged, but for the same one once more. */
static __always_inline bool continues(const struct flow *flow, const struct packet *packet, u32 direction)
{
	if (!is_new_tcp(packet))
		return 1;
	return flow->direction == direction && flow->sequence == packet->sequence && !(flow->state & FLOW_CLOSING);
}

static __always_inline void touch(struct flow *flow, const struct packet *packet, u32 direction, u64 now)
{
	flow->last_ns = now;
	if (flow->direction != direction && !(flow->state & FLOW_REPLIED))
		flow->state |= FLOW_REPLIED;
	if (packet->tcp_flags & (TCP_FIN | TCP_RST))
		flow->state |= FLOW_CLOSING;
}

/*
 * True: an ICMP error about a flow that is known and allowed. The quoted packet
 * went the other way, and who sent it is told: else the quotation would be a
 * passport to anywhere.
 */
static __always_inline bool is_about_known(struct __sk_buff *skb, const struct packet *packet, u32 number, u32 direction)
{
	struct flow_key key = {.endpoint = number};
	struct packet quoted = {};
	struct flow *flow;
	int parsed;

	if (packet->protocol == PROTOCOL_ICMP)
		parsed = parse_v4(skb, packet->transport + 8, &quoted, 1);
	else
		parsed = parse_v6(skb, packet->transport + 8, &quoted, 1);
	if (parsed != PARSED || quoted.fragment == FRAGMENT_LATER || !same(packet->destination, quoted.source))
		return 0;
	flow_of(&key, &quoted, !direction);
	flow = flows.lookup(&key);
	return flow && flow->verdict != VERDICT_DENY;
}

static __always_inline bool is_in_use(const struct flow *flow, u8 protocol, u64 now)
{
	return (flow->state & FLOW_REPLIED) && !(flow->state & FLOW_CLOSING) && !is_over(flow, protocol, now);
}

/*
 * A new connection takes its endpoint's next place, and what had the place is
 * forgotten, so that one pod's scan pushes out its own and nobody else's. What
 * is in use keeps its place while others near it are not.
 */
static __always_inline void take_place(const struct flow_key *key, u64 now)
{
	struct budget *budget = budget_of(key->endpoint);
	struct place place = {.endpoint = key->endpoint};
	u32 places_each = setting(CONFIG_FLOWS), next;

	if (!budget || !places_each)
		return;
	next = budget->next;
	for (int i = 0; i < SECOND_CHANCES; i++) {
		struct flow_key *held;
		struct flow *flow;

		place.number = next++ % places_each;
		held = places.lookup(&place);
		if (!held)
			break;
		flow = flows.lookup(held);
		if (flow && i < SECOND_CHANCES - 1 && is_in_use(flow, held->protocol, now))
			continue;
		if (flow)
			flows.delete(held);
		break;
	}
	budget->next = next;
	places.update(&place, (struct flow_key *)key);
}

/*
 * Older than the program: without a SYN TCP opens nothing, so that what is
 * seen first may be the reply. Without a TCP state only just after the attach,
 * and only to a pod that was there before: else whoever may be called from a
 * port may open any.
 */
static __always_inline bool may_be_older(const struct endpoint *endpoint, const struct packet *packet, u64 now)
{
	if (packet->protocol == PROTOCOL_TCP)
		return !is_new_tcp(packet);
	return endpoint->attached_ns && now - endpoint->attached_ns < ADOPTION && !is_echo_request(packet);
}

#endif
