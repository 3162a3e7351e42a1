/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Connections that have ended without a packet, or that live on for an hour: user space has every place looked at in
 * turn (expire_places in policy.c), and those whose connection is to be reported are (ends.h).
 */
#ifndef KUBEWEIR_SWEEP_H
#define KUBEWEIR_SWEEP_H
#ifdef ENDS

/* Return how the connection of a place is to be reported now: END_*, or 0: not now. */
static __always_inline u8 due_report(const struct place *place, const struct traffic *counted,
				     u64 last, u64 now)
{
	u32 pod = place->key.endpoint;

	if (is_unreported(counted)) {
		if (!budgets.lookup(&pod))
			return how_ended(counted, END_POD_GONE);
		if (counted->revoked)
			return END_REVOKED;
		if ((has_closed(counted) || counted->reset) && now > last && now - last > END_QUIET)
			return how_ended(counted, END_RESET);
	}
	if (counted->state == TRAFFIC_LOGGED && (s64)(now - counted->since_ns) > (s64)END_HEARTBEAT)
		return END_OPEN;
	return 0;
}

/* Report the connection of a place if it is time. is_last: it is. Return 0 if it could not be. */
static __always_inline bool look_at_traffic(const struct place *place, u32 number, u64 now, bool is_last)
{
	struct connection *connection = occupant_of(place, number);
	struct traffic *counted;
	bool is_reported;
	u64 last;
	u8 how;

	if (!connection)
		return 1;
	last = connection->last_ns;
	counted = traffic.lookup(&number);
	if (!counted || counted->state == TRAFFIC_UNLOGGED)
		return 1;
	how = due_report(place, counted, last, now);
	if (is_last && is_unreported(counted))
		how = how_ended(counted, END_MOVED);
	if (!how)
		return 1;
	if (!claim_place(number, now))
		return 0;
	/* Nobody else reports it now, and no other connection gets the place. */
	is_reported = report_traffic(counted, how, how == END_OPEN || how == END_MOVED ? now : last);
	if (is_reported && how != END_OPEN)
		counted->state = TRAFFIC_REPORTED;
	emptying.delete(&number);
	return is_reported;
}

/* Count a packet that a pod's hook has judged and that passes. */
static __always_inline void count_passing(struct __sk_buff *skb, const struct work *w, u32 direction)
{
	u32 number = w->counted - 1;
	struct traffic *counted = traffic.lookup(&number);

	if (!counted)
		return;
	add_packet(counted, direction, skb->len);
	if (counted->lately[direction & 1] >> PACKETS_SHIFT > MANY_PACKETS && claim_place(number, w->now)) {
		settle(counted);
		emptying.delete(&number);
	}
	if (w->packet.protocol != PROTOCOL_TCP)
		return;
	if (w->packet.tcp_flags & TCP_FIN)
		counted->fin[direction & 1] = 1;
	if (w->packet.tcp_flags & TCP_RST)
		counted->reset = 1;
}

#endif
#endif
