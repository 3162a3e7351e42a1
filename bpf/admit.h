/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Admission: the verdict on one packet, from its connection and from policy. admit()
 * at the end is the sequence of steps; the functions before it are one step each.
 */
#ifndef KUBEWEIR_ADMIT_H
#define KUBEWEIR_ADMIT_H

/* Fill w->verdict_key. other is the true peer, where the key may show one that NAT has made up. */
static __always_inline void describe_verdict(struct work *w, u32 direction, const u8 *other, u16 other_port, u8 verdict,
					     u8 reason, u32 rule)
{
	struct verdict_key *verdict_key = &w->verdict_key;
	const struct connection_key *key = &w->key;
	bool out = direction == EGRESS;

	verdict_key->endpoint = key->endpoint;
	verdict_key->rule = rule;
	__builtin_memcpy(out ? verdict_key->source : verdict_key->destination, key->local, 16);
	__builtin_memcpy(out ? verdict_key->destination : verdict_key->source, other, 16);
	verdict_key->source_port = out ? key->local_port : other_port;
	verdict_key->destination_port = out ? other_port : key->local_port;
	if (key->role) {
		verdict_key->source_port = key->role >= ROLE_ICMP ? 0 : key->local_port;
		verdict_key->destination_port = w->packet.destination_port;
	}
	verdict_key->protocol = key->protocol;
	verdict_key->verdict = verdict | (out ? 0 : VERDICT_INGRESS);
	verdict_key->reason = reason;
	verdict_key->flags = w->unnamed ? VERDICT_UNNAMED : 0;
}

/* Deny the packet. The end of the program logs it (finish() in policy.c), so that the code for that exists once. */
static __always_inline int refuse(struct work *w, u32 direction, u8 reason)
{
	w->decision.identity = 0;
	describe_verdict(w, direction, w->key.remote, w->key.remote_port, VERDICT_DENY, reason, 0);
	w->refused = 1;
	return TC_ACT_SHOT;
}

static __always_inline void store_decision(struct connection *connection, const struct decision *decision, u32 epoch)
{
	connection->rule = decision->rule;
	connection->identity = decision->identity;
	connection->verdict = decision->verdict;
	connection->reason = decision->reason;
	connection->epoch = epoch;
}

/* What the steps of admit() find out about a packet. */
struct assessment {
	struct connection *connection; /* which it belongs to; 0: it opens one */
	const u8 *peer;		       /* the true peer; NAT may show another one in the key */
	u16 peer_port;
	u32 opened;	   /* direction in which the connection was opened */
	bool node;	   /* the node itself is the peer */
	bool known_source; /* w->origin says who sent it */
	bool forward;	   /* from the pod that opened the connection */
	bool pending;	   /* no exit has admitted the connection yet */
	bool elsewhere;	   /* an exit of another generation has, and has logged it */
	bool judging;	   /* there is no verdict of the current epoch */
	bool masked;	   /* a masquerade hides who opened the connection */
	bool to_exit;	   /* the exit hook judges it too */
	bool deferred;	   /* only the exit hook judges it */
	bool adopted;	   /* the first packet of a connection that the probe has adopted passes */
	bool checking;	   /* the exit only checks the destination */
	bool unlogged;	   /* the exit is to log it */
	bool log_now;	   /* it is logged now, although it is not new */
	bool pass;
	u32 place; /* of the entry that an earlier connection has left under this key (places.h) */
	u32 hash;  /* of that entry, too */
};

static __always_inline u32 direction_of(const enum hook hook)
{
	return hook == POD_INGRESS ? INGRESS : EGRESS;
}

/* Return the entry if the packet continues its connection, else 0. */
static __always_inline struct connection *current_connection(struct connection *connection, const struct work *w,
							     struct assessment *c, const enum hook hook)
{
	if (!connection || is_expired(connection, w->key.protocol, w->now) ||
	    !continues(connection, &w->packet, direction_of(hook)))
		return 0;
	if (hook != POD_INGRESS)
		return connection;
	/* A named peer's packets and unnamed ones never continue each other's connection. */
	if (connection->direction == INGRESS && !(connection->check & CHECK_UNNAMED) != !w->unnamed)
		return 0;
	/* No exit has seen it: DNAT has turned a pod's address into the node's. */
	if (c->node && connection->check & CHECK_DUE) {
		connection->verdict = VERDICT_PENDING;
		connection->check = 0;
	}
	if (connection->verdict == VERDICT_PENDING) {
		/* No exit has admitted it, so this is not a reply, unless DNAT chose the node itself as backend. */
		if (!c->node) {
			c->elsewhere = take_backend(connection, w);
			return c->elsewhere ? connection : 0;
		}
		connection->state |= CONNECTION_FROM_NODE;
		return connection;
	}
	/* The masquerade has given the port to another pod since. */
	if (c->known_source && connection->direction == INGRESS &&
	    !equal(connection->state & CONNECTION_OTHER ? connection->other : w->key.remote, w->origin.source))
		return 0;
	return connection;
}

/* About a second: 2^30 ns. */
static __always_inline bool is_another_second(const struct connection *connection, const struct work *w)
{
	return w->now >> 30 != connection->last_ns >> 30;
}

/* Read the connection's entry, and decide whether its verdict still holds. */
static __always_inline void load_state(struct assessment *c, struct work *w, const enum hook hook)
{
	const u32 direction = direction_of(hook);
	struct connection *connection = c->connection;

	c->opened = direction;
	if (connection) {
		c->opened = connection->direction & 1;
		w->unnamed = c->opened == INGRESS && connection->check & CHECK_UNNAMED;
		c->node = connection->state & CONNECTION_FROM_NODE;
		c->pending = connection->verdict == VERDICT_PENDING;
		w->decision.rule = connection->rule;
		w->decision.identity = connection->identity;
		w->decision.verdict = connection->verdict;
		w->decision.reason = connection->reason;
	}
	c->forward = c->opened == EGRESS && direction == EGRESS;
	c->judging = !connection || connection->epoch != w->epoch || (c->pending && hook != POD_EGRESS) ||
		     (hook == DEVICE_EXIT && c->forward &&
		      (connection->state & CONNECTION_OTHER || connection->reason == REASON_NODE));
	if (hook == POD_EGRESS && c->forward && connection) {
		c->to_exit = connection->state & CONNECTION_EXIT;
		c->deferred = connection->state & CONNECTION_DIALLED;
		c->checking = !c->to_exit && (connection->check & CHECK_DUE || is_another_second(connection, w));
	}
}

/* Find the true peer behind a masquerade or a Service address. */
static __always_inline void resolve_peer(struct assessment *c, struct work *w, const enum hook hook)
{
	struct connection *connection = c->connection;

	c->peer = w->key.remote;
	c->peer_port = w->key.remote_port;
	if (hook == POD_INGRESS && c->opened == INGRESS && c->known_source) {
		c->peer = w->origin.source;
		c->peer_port = w->origin.source_port;
		c->masked = !equal(w->origin.source, w->key.remote);
	} else if (!c->forward && connection && connection->state & CONNECTION_OTHER) {
		c->peer = connection->other;
		c->peer_port = connection->other_port;
		if (c->opened == EGRESS) {
			__builtin_memcpy(w->dialled, w->key.remote, 16);
			w->dialled_port = w->key.remote_port;
		}
	}
}

/*
 * What the node itself receives leaves by no device. A bridge forwards by the link-layer address, which the pod chooses,
 * so another machine would get what the pod addresses to the node.
 */
static __always_inline void judge_as_world(struct endpoint *endpoint, struct decision *decision)
{
	const struct policy_entry *world = &endpoint->defaults[EGRESS][KIND_WORLD];

	decision->rule = world->rule;
	decision->verdict = world->verdict;
	decision->reason = world->reason;
}

/*
 * Whether a packet to a pod's address surely meets an exit unless the node drops it. Of others the pod's hook logs the
 * verdict: the node may have no route, and the exit of an unresolved neighbour sees nothing.
 */
static __always_inline bool has_exit(const struct work *w, const u8 *address)
{
	u32 ifindex = local_ifindex(w, address);

	return ifindex != LOCAL_NODE && ifindex != LOCAL_NONE;
}

static __always_inline void decide(struct assessment *c, struct work *w, struct endpoint *endpoint,
				   const enum hook hook)
{
	judge(w, endpoint, c->opened, c->peer, c->peer_port, c->node, &w->decision);
	if (hook == DEVICE_EXIT && w->decision.reason == REASON_NODE && local_ifindex(w, c->peer) == LOCAL_NODE)
		judge_as_world(endpoint, &w->decision);
	if (hook == POD_EGRESS && c->forward) {
		/* CONNECTION_OTHER: DNAT has changed the destination of earlier packets. */
		c->deferred = w->decision.kind >= KIND_SERVICE ||
			      (c->connection && (c->connection->state & CONNECTION_OTHER || is_behind_nat(c->connection)));
		c->to_exit = w->decision.kind != KIND_POD || c->deferred;
		c->checking = !c->to_exit;
		c->unlogged = c->checking && !c->connection && has_exit(w, c->peer);
	}
}

/* What adoption.h says of a mid-flow packet without an entry. */
static __always_inline void judge_mid_flow(struct assessment *c, struct work *w, struct endpoint *endpoint,
					   const enum hook hook)
{
	struct decision answered = {};

	if (c->connection || !may_be_older(endpoint, &w->packet, w->now))
		return;
	if (c->pass && is_answer(&w->packet)) {
		judge(w, endpoint, !c->opened, w->key.remote, w->key.remote_port, 0, &answered);
		c->pass = answered.verdict != VERDICT_DENY;
	}
	if (c->pass && (c->deferred || w->decision.verdict != VERDICT_AUDIT))
		return;
	look_up(w, endpoint, direction_of(hook));
	if (c->pass)
		return;
	count(COUNT_UNKNOWN_FLOW);
	c->pass = c->deferred = 0;
	w->decision.verdict = VERDICT_DENY;
	w->decision.reason = REASON_UNKNOWN_FLOW;
	w->decision.rule = 0;
}

#ifdef ENDS
/* Whether an RST answers the SYN that opened the connection: its sender has sent nothing, so it has no number yet. */
static __always_inline bool answers_syn(struct __sk_buff *skb, const struct work *w, u32 opened)
{
	u32 acknowledged;

	return w->packet.tcp_flags & TCP_ACK && !bpf_skb_load_bytes(skb, w->packet.transport + 8, &acknowledged, 4) &&
	       is_near(ntohl(acknowledged), opened, RESET_SLACK);
}

/*
 * Find w->closes: what the packet says of the connection's end, as far as its receiver can believe it. An RST must have a
 * sequence number that its sender may have reached since the one that is known, by what it has sent.
 */
static __always_inline void find_closing(struct __sk_buff *skb, struct work *w, const struct connection *connection,
					 u32 direction)
{
	u8 flags = w->packet.tcp_flags & (TCP_FIN | TCP_RST);
	struct traffic *counted = traffic_of(w->counted);
	u32 sent = connection->sent[direction & 1];
	u64 reach;

	if (!flags || w->key.protocol != PROTOCOL_TCP || !counted || !is_credible_end(connection, &w->packet, direction))
		return;
	reach = counted->bytes[direction & 1] + (counted->lately[direction & 1] & BYTES_MASK) + RESET_SLACK;
	if (reach > CLOSING_WINDOW)
		reach = CLOSING_WINDOW;
	if (flags & TCP_RST &&
	    !(sent ? is_near(w->packet.sequence, sent, reach) : answers_syn(skb, w, connection->sent[!(direction & 1)])))
		flags &= ~TCP_RST;
	w->closes = flags;
}
#endif

/* Write what the packet changes in its connection's entry. */
static __always_inline void update_connection(struct __sk_buff *skb, struct assessment *c, struct work *w,
					      const enum hook hook)
{
	struct connection *connection = c->connection;

#ifdef ENDS
	if (hook != DEVICE_EXIT) {
		find_counted(w, &w->key, connection->place);
		find_closing(skb, w, connection, direction_of(hook));
	}
#endif
	if (c->judging && !c->deferred) {
		store_decision(connection, &w->decision, w->epoch);
		if (hook == POD_EGRESS && c->forward)
			connection->state = (connection->state & ~(CONNECTION_DIALLED | CONNECTION_EXIT)) |
					    (c->to_exit ? CONNECTION_EXIT : 0);
		if (c->checking)
			connection->check |= CHECK_DUE;
		if (hook == DEVICE_EXIT && c->forward)
			connection->state &= ~CONNECTION_OTHER;
	} else if (c->deferred && !(connection->state & CONNECTION_DIALLED)) {
		connection->state |= CONNECTION_DIALLED | CONNECTION_EXIT;
		connection->verdict = VERDICT_PENDING;
	}
	if (c->to_exit && c->pass)
		stamp_connection(skb, w, connection, 0);
	if (c->checking && c->pass)
		stamp_for_check(skb, w);
	if (c->forward && connection->check && is_zero(w->dialled)) {
		/* At the exit, or at another packet: DNAT has not changed the destination. */
		c->log_now = connection->check & CHECK_UNLOGGED;
		connection->check = hook == DEVICE_EXIT ? 0 : connection->check & ~CHECK_UNLOGGED;
	}
	touch(connection, &w->packet, direction_of(hook), w->now);
	/* It was carried over from another generation, before its pod had a budget. */
	if (!connection->place) {
		w->fresh = *connection;
		w->unstored = 1;
	}
}

/* Fill what differs in the entry of a connection whose first packet was not seen. */
static __always_inline void fill_mid_flow(const struct assessment *c, struct work *w, const enum hook hook)
{
	struct connection *dialled = 0;

	/* The exit looks for REASON_NODE (load_state). */
	if (w->decision.verdict == VERDICT_ALLOW && w->decision.reason != REASON_NODE)
		w->decision.reason = REASON_ADOPTED;
	if (w->packet.tcp_flags & (TCP_FIN | TCP_RST))
		w->fresh.state |= CONNECTION_CLOSING;
	/*
	 * Not CONNECTION_REPLIED: anyone can send an ACK, which must not keep an entry for longer than a SYN does. Replies
	 * from behind a Service meet the entry of the dialled address, never the exit's.
	 */
	if (hook == DEVICE_EXIT && c->forward && !is_zero(w->dialled))
		dialled = dialled_connection(w);
	if (dialled)
		w->fresh.state |= dialled->state & CONNECTION_REPLIED;
}

/* Fill w->fresh, which the end of the program stores. */
static __always_inline void create_connection(struct __sk_buff *skb, struct assessment *c, struct work *w,
					      const enum hook hook)
{
	struct decision *decision = &w->decision;
	struct connection *fresh = &w->fresh;

	if (c->deferred)
		decision->verdict = VERDICT_PENDING;
	__builtin_memset(fresh, 0, sizeof(*fresh));
	fresh->last_ns = w->now;
	fresh->sequence = w->packet.sequence;
	fresh->sent[direction_of(hook) & 1] = w->packet.sequence;
	fresh->direction = c->opened;
	fresh->state = (c->node ? CONNECTION_FROM_NODE : 0) | (c->to_exit ? CONNECTION_EXIT : 0) |
		       (c->deferred ? CONNECTION_DIALLED : 0);
	fresh->check = (c->checking ? CHECK_DUE : 0) | (c->unlogged ? CHECK_UNLOGGED : 0) |
		       (w->unnamed && c->opened == INGRESS ? CHECK_UNNAMED : 0);
	if (c->masked) {
		fresh->state |= CONNECTION_OTHER;
		__builtin_memcpy(fresh->other, w->origin.source, 16);
		fresh->other_port = w->origin.source_port;
	}
	if (c->adopted)
		keep_adopted(fresh, c->connection);
	if (c->adopted || (w->key.protocol == PROTOCOL_TCP && !is_new_tcp(&w->packet)))
		fill_mid_flow(c, w, hook);
	store_decision(fresh, decision, w->epoch);
	fresh->hash = c->hash;
	if (c->to_exit)
		stamp_connection(skb, w, fresh, 1);
	if (c->checking)
		stamp_for_check(skb, w);
	fresh->place = c->place;
	w->unstored = 1;
}

#ifdef ENDS
/*
 * Keep the verdict that was written with the connection of w->key, which has a place. opening: as what the packet was
 * counted before (count_of()).
 */
static __always_inline void expect_end_of(struct work *w, const struct connection *connection, u32 opening)
{
	u32 number = connection->place - 1, moved = 0;
	struct traffic *counted = claim_traffic(w, number);
	u64 owner = owner_of(&w->key);

	if (!counted || counted->owner != owner) {
		count(COUNT_ENDS_UNCERTAIN);
		if (!counted)
			distrust(number, owner);
	} else {
		/* A UDP socket's packets to a Service go to another backend once nf_conntrack has forgotten the last one. */
		if (counted->state != TRAFFIC_UNLOGGED) {
			moved = take_back(counted, opening, w->origin.time_ns);
			end_traffic(counted, END_TIMEOUT, w->now);
			*(volatile u64 *)&counted->owner = owner;
			if (w->counted)
				w->serial = counted->serial;
		}
		keep_verdict(counted, &w->logged);
		counted->packets[EGRESS] += !!moved;
		counted->bytes[EGRESS] += moved;
	}
	if (counted)
		emptying.delete(&number);
}

/* The verdict of an allowed connection was written: have its traffic reported. Of a new entry, when it has a place. */
static __always_inline void expect_end(const struct assessment *c, struct work *w)
{
	bool is_dialled = c->forward && !is_zero(w->dialled);
	struct connection *connection = c->adopted ? 0 : c->connection;

	if (is_dialled)
		connection = dialled_connection(w);
	if (!is_dialled && (!connection || !connection->place)) {
		w->logged.is_waiting = 1;
		return;
	}
	if (!connection || !connection->place) {
		/* All packets meet the entry of the dialled address, which is gone. */
		count(COUNT_ENDS_UNPLACED);
		return;
	}
	if (is_dialled) {
		__builtin_memcpy(w->backend, w->key.remote, 16);
		w->backend_port = w->key.remote_port;
		__builtin_memcpy(w->key.remote, w->dialled, 16);
		w->key.remote_port = w->key.role ? 0 : w->dialled_port;
	}
	expect_end_of(w, connection, is_dialled ? w->origin.counted : 0);
	if (is_dialled) {
		__builtin_memcpy(w->key.remote, w->backend, 16);
		w->key.remote_port = w->backend_port;
	}
}
#endif

/* Emit a new verdict; the end of the program does so for a denied packet. */
static __always_inline void log_verdict(const struct assessment *c, struct work *w)
{
	struct deny_window once = {};
	u32 class;

	describe_verdict(w, c->opened, c->peer, c->peer_port, w->decision.verdict, w->decision.reason,
			 w->decision.rule);
	if (!c->pass) {
		w->refused = 1;
		return;
	}
	count(COUNT_DECIDED);
	class = w->decision.verdict == VERDICT_ALLOW ? LIMIT_ALLOWED : LIMIT_DENIED;
	if (!is_logged_verdict(&w->verdict_key) || !is_within_limit(&w->verdict_key, class, w->now))
		return;
	start_window(&once, w);
#ifdef ENDS
	if (w->decision.verdict == VERDICT_ALLOW) {
		if (emit(&w->verdict_key, &once, 1, LIMIT_ALLOWED, &w->logged))
			expect_end(c, w);
		else
			count(COUNT_RING_FULL);
		return;
	}
#endif
	if (!emit(&w->verdict_key, &once, 1, class, 0))
		count(COUNT_RING_FULL);
}

/*
 * Find or create the connection of w->key, judge it under the current epoch, and
 * return whether the packet passes. node: the packet is the node's own.
 * known_source: w->origin says who sent it.
 */
static __always_inline bool admit(struct __sk_buff *skb, struct work *w, struct endpoint *endpoint,
				  const enum hook hook, bool node, bool known_source)
{
	struct connection *known = connections.lookup(&w->key);
	struct assessment c = {.node = node,
			       .known_source = known_source,
			       .place = known ? known->place : 0,
			       .hash = known ? known->hash : 0};
	bool is_logged = 0;

	c.connection = current_connection(known, w, &c, hook);
	load_state(&c, w, hook);
	resolve_peer(&c, w, hook);
	if (c.judging)
		decide(&c, w, endpoint, hook);
	c.pass = c.deferred || w->decision.verdict != VERDICT_DENY;
	c.adopted = c.judging && c.pass && !c.deferred && c.connection && c.connection->state & CONNECTION_ADOPTED;
	judge_mid_flow(&c, w, endpoint, hook);
	if (c.connection && !c.adopted) {
		update_connection(skb, &c, w, hook);
		is_logged = (!c.pending || c.elsewhere) && !c.log_now;
		if (hook != DEVICE_EXIT && !c.judging && passes(w->decision.verdict) &&
		    (!c.checking || c.connection->check & CHECK_DUE))
			remember_passing(skb, w, direction_of(hook), c.to_exit || c.checking);
	} else if (c.pass) {
		create_connection(skb, &c, w, hook);
	}
	if (hook == DEVICE_EXIT && c.forward && !is_zero(w->dialled) && (c.judging || w->origin.confirm))
		confirm(w);
	if (!c.pass || !(c.deferred || c.unlogged || is_logged))
		log_verdict(&c, w);
	return c.pass;
}

#endif
