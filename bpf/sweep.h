/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Connections that have ended without a packet, or that live on for an hour: user space has every place looked at in
 * turn (expire_places in policy.c), and those whose connection is to be reported are (ends.h).
 */
#ifndef KUBEWEIR_SWEEP_H
#define KUBEWEIR_SWEEP_H
#ifdef ENDS

/* Whether policy surely allows the connection no longer, as far as its last packet or the policy of now says so. */
static __always_inline bool is_revoked(struct work *w, const struct place *place, const struct connection *connection)
{
	const u8 *peer = w->key.remote;
	u16 port = place->key.remote_port;
	struct endpoint *endpoint;

	if (connection->verdict == VERDICT_PENDING)
		return 0;
	w->epoch = setting(CONFIG_EPOCH);
	if (connection->epoch == w->epoch)
		return is_denied_by_policy(connection->verdict, connection->reason);
	w->key = place->key;
	w->unnamed = connection->direction == INGRESS && connection->check & CHECK_UNNAMED;
	endpoint = endpoint_at(w, local_ifindex(w, w->key.local));
	if (!endpoint || endpoint->number != w->key.endpoint)
		return 0;
	if (connection->state & CONNECTION_OTHER) {
		peer = connection->other;
		port = connection->other_port;
	} else if (connection->state & CONNECTION_DIALLED) {
		return 0;
	}
	judge(w, endpoint, connection->direction & 1, peer, port, connection->state & CONNECTION_FROM_NODE,
	      &w->decision);
	return is_denied_by_policy(w->decision.verdict, w->decision.reason);
}

/* Whether it may be time to report: looks at little, because this is asked of every place. */
static __always_inline bool may_be_due(struct work *w, const struct place *place, const struct connection *connection,
				       const struct traffic *counted)
{
	u32 pod = place->key.endpoint;

	return counted->marks || counted->fin[0] || counted->fin[1] || counted->reset ||
	       connection->verdict == VERDICT_DENY || connection->epoch != (u32)setting(CONFIG_EPOCH) ||
	       !budgets.lookup(&pod) ||
	       (counted->state == TRAFFIC_LOGGED && (s64)(w->now - counted->since_ns) > (s64)END_HEARTBEAT);
}

/* Return how the connection of a claimed place, whose traffic is settled, is to be reported now: END_*, or 0: not now. */
static __always_inline u8 due_report(struct work *w, const struct place *place, const struct connection *connection,
				     const struct traffic *counted, u64 last, bool is_last)
{
	u32 pod = place->key.endpoint;
	u8 how;

	if (is_unreported(counted)) {
		how = how_ended(counted, last, 0);
		if (!budgets.lookup(&pod))
			return how ?: END_POD_GONE;
		if (is_last)
			return how ?: is_denied_by_policy(connection->verdict, connection->reason) ? END_REVOKED
												   : END_MOVED;
		if (how && w->now > last && w->now - last > END_QUIET)
			return how;
		if (!how && is_revoked(w, place, connection))
			return END_REVOKED;
	}
	if (counted->state == TRAFFIC_LOGGED && (s64)(w->now - counted->since_ns) > (s64)END_HEARTBEAT)
		return END_OPEN;
	return 0;
}

/* Report the connection of a claimed place if it is time. Return 0 if the ring is full. */
static __always_inline bool report_if_due(struct work *w, const struct place *place, u32 number,
					  struct traffic *counted, bool is_last)
{
	struct connection *connection = occupant_of(place, number);
	u64 last;
	u8 how;

	if (!connection || counted->owner != owner_of(&place->key))
		return 1;
	last = connection->last_ns;
	settle(counted);
	how = due_report(w, place, connection, counted, last, is_last);
	if (!how)
		return 1;
	if (!report_traffic(counted, how, how == END_OPEN || how == END_MOVED ? w->now : last))
		return 0;
	if (how != END_OPEN)
		counted->state = TRAFFIC_REPORTED;
	return 1;
}

/* Report the connection of a place if it is time. is_last: it is. Return 0 if it could not be. */
static __always_inline bool look_at_traffic(struct work *w, const struct place *old, u32 number, bool is_last)
{
	struct connection *connection = occupant_of(old, number);
	struct traffic *counted = traffic.lookup(&number);
	struct place *place;
	bool is_done = 1;

	if (!connection || !counted || counted->state == TRAFFIC_UNLOGGED)
		return 1;
	if (!is_last && !may_be_due(w, old, connection, counted))
		return 1;
	if (!claim_place(number, w->now))
		return 0;
	/* Nobody else reports it now, and no other connection gets the place; but one may have got it before. */
	place = places.lookup(&number);
	if (place && is_same(&place->key, &old->key))
		is_done = report_if_due(w, old, number, counted, is_last);
	emptying.delete(&number);
	return is_done;
}

/* Say in the packet's slot, if it has one, as what it was counted: its exit may write the next verdict. */
static __always_inline void tell_exit(struct __sk_buff *skb, u32 serial)
{
	u32 index = skb->tc_index - 1;
	struct origin *slot = index < SLOTS ? slots.lookup(&index) : 0;

	if (slot)
		slot->counted = count_of(skb->len, serial);
}

/* Count a packet that a pod's hook has judged and that passes. */
static __always_inline void count_passing(struct __sk_buff *skb, struct work *w, u32 direction)
{
	u32 number = w->counted - 1, serial = w->serial;
	struct traffic *counted = traffic.lookup(&number);

	if (!counted || *(volatile u32 *)&counted->serial != serial)
		return;
	add_packet(counted, direction, skb->len, serial);
	if (direction == EGRESS)
		tell_exit(skb, serial);
	if (has_many(counted, direction) && claim_place(number, w->now)) {
		settle(counted);
		emptying.delete(&number);
	}
	if (w->closes & TCP_FIN)
		add_mark(counted, MARK_FIN(direction), serial);
	if (!(w->closes & TCP_RST))
		return;
	*(volatile u64 *)&counted->reset_at = (u64)serial << 32 | (u32)(w->now >> RESET_TICK_SHIFT);
	add_mark(counted, MARK_RST, serial);
}

#endif
#endif
