/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Connection and policy put together: the verdict over one packet.
 */
#ifndef KUBEWEIR_ADMIT_H
#define KUBEWEIR_ADMIT_H

/* other: the far end, which NAT may show as another one in the key. */
static __always_inline void describe(struct work *w, u32 direction, const u8 *other, u16 other_port, u8 verdict,
				     u8 reason, u32 rule)
{
	struct window_key *what = &w->what;
	const struct flow_key *key = &w->key;
	bool out = direction == EGRESS;

	what->endpoint = key->endpoint;
	what->rule = rule;
	__builtin_memcpy(out ? what->source : what->destination, key->local, 16);
	__builtin_memcpy(out ? what->destination : what->source, other, 16);
	what->source_port = out ? key->local_port : other_port;
	what->destination_port = out ? other_port : key->local_port;
	if (key->role) {
		what->source_port = key->role >= ROLE_ICMP ? 0 : key->local_port;
		what->destination_port = w->packet.destination_port;
	}
	what->protocol = key->protocol;
	what->verdict = verdict | (out ? 0 : VERDICT_INGRESS);
	what->reason = reason;
	what->flags = 0;
}

static __always_inline int refuse(struct work *w, u32 direction, u8 reason)
{
	w->decision.identity = 0;
	describe(w, direction, w->key.remote, w->key.remote_port, VERDICT_DENY, reason, 0);
	denied(w);
	return TC_ACT_SHOT;
}

static __always_inline void keep(struct flow *flow, const struct decision *decision, u32 epoch)
{
	flow->rule = decision->rule;
	flow->identity = decision->identity;
	flow->verdict = decision->verdict;
	flow->reason = decision->reason;
	flow->epoch = epoch;
}

/* What is found out about a packet, step by step. */
struct course {
	struct flow *flow;	/* the connection that it belongs to; 0: it opens one */
	const u8 *peer;		/* the far end: NAT may show another one in the key */
	u16 peer_port;
	u32 opened;		/* direction in which the connection was opened */
	bool known;		/* there is an entry, perhaps of an earlier connection */
	bool node;		/* the packet is the node's own, or for it */
	bool known_source;	/* w->origin says who sent it */
	bool forward;		/* from the pod that called */
	bool pending;		/* no exit has let the connection through yet */
	bool judging;		/* no verdict of now is known */
	bool masked;		/* a masquerade hides who called */
	bool to_exit;		/* where it leaves the node it is judged, too */
	bool deferred;		/* only there */
	bool pass;
};

static __always_inline u32 direction_of(const enum hook hook)
{
	return hook == POD_INGRESS ? INGRESS : EGRESS;
}

/* The entry, if the packet goes on with its connection. */
static __always_inline struct flow *continued(struct flow *flow, const struct work *w, const struct course *c,
					      const enum hook hook)
{
	if (!flow || is_over(flow, w->key.protocol, w->now) || !continues(flow, &w->packet, direction_of(hook)))
		return 0;
	if (hook != POD_INGRESS)
		return flow;
	if (flow->verdict == VERDICT_PENDING) {
		/* No exit let it through: nobody's reply, but the node's own where DNAT chose the node. */
		if (!c->node)
			return 0;
		flow->state |= FLOW_FROM_NODE;
		return flow;
	}
	/* The masquerade has given another pod the same port. */
	if (c->known_source && flow->direction == INGRESS &&
	    !same(flow->state & FLOW_OTHER ? flow->other : w->key.remote, w->origin.source))
		return 0;
	return flow;
}

/* What the connection's entry says of it, and whether that still holds. */
static __always_inline void take_up(struct course *c, struct work *w, const enum hook hook)
{
	const u32 direction = direction_of(hook);
	struct flow *flow = c->flow;

	c->opened = direction;
	if (flow) {
		c->opened = flow->direction & 1;
		c->node = flow->state & FLOW_FROM_NODE;
		c->pending = flow->verdict == VERDICT_PENDING;
		w->decision.rule = flow->rule;
		w->decision.identity = flow->identity;
		w->decision.verdict = flow->verdict;
		w->decision.reason = flow->reason;
	} else if ((w->packet.tcp_flags & (TCP_SYN | TCP_ACK)) == (TCP_SYN | TCP_ACK)) {
		c->opened = !direction;
		c->node = 0;
	}
	c->forward = c->opened == EGRESS && direction == EGRESS;
	c->judging = !flow || flow->epoch != w->epoch || (c->pending && hook != POD_EGRESS) ||
		     (hook == DEVICE_EXIT && c->forward && flow->state & FLOW_OTHER);
	if (hook == POD_EGRESS && c->forward && flow) {
		c->to_exit = flow->state & FLOW_EXIT;
		c->deferred = flow->state & FLOW_DIALLED;
	}
}

/* Who the far end is behind a masquerade, or a Service's address. */
static __always_inline void look_behind_nat(struct course *c, struct work *w, const enum hook hook)
{
	struct flow *flow = c->flow;

	c->peer = w->key.remote;
	c->peer_port = w->key.remote_port;
	if (hook == POD_INGRESS && c->opened == INGRESS && c->known_source) {
		c->peer = w->origin.source;
		c->peer_port = w->origin.source_port;
		c->masked = !same(w->origin.source, w->key.remote);
	} else if (!c->forward && flow && flow->state & FLOW_OTHER) {
		c->peer = flow->other;
		c->peer_port = flow->other_port;
		if (c->opened == EGRESS) {
			__builtin_memcpy(w->dialled, w->key.remote, 16);
			w->dialled_port = w->key.remote_port;
		}
	}
}

/* Perhaps the reply of a connection that is older than the program: then the other direction decides. */
static __always_inline void try_as_reply(struct course *c, struct work *w, struct endpoint *endpoint)
{
	struct decision other = {};

	judge(w, endpoint, !c->opened, w->key.remote, w->key.remote_port, 0, &other);
	if (other.verdict != VERDICT_ALLOW)
		return;
	w->decision = other;
	c->opened = !c->opened;
	c->to_exit = c->forward = c->masked = 0;
	c->peer = w->key.remote;
	c->peer_port = w->key.remote_port;
}

static __always_inline void decide(struct course *c, struct work *w, struct endpoint *endpoint, const enum hook hook)
{
	judge(w, endpoint, c->opened, c->peer, c->peer_port, c->node, &w->decision);
	if (hook == POD_EGRESS && c->forward) {
		c->to_exit = w->decision.kind != KIND_POD;
		c->deferred = w->decision.kind == KIND_SERVICE;
	}
	if (!c->deferred && w->decision.verdict != VERDICT_ALLOW && !c->flow && c->opened == direction_of(hook) &&
	    may_be_older(endpoint, &w->packet, w->now))
		try_as_reply(c, w, endpoint);
}

/* What the packet changes in its connection's entry. */
static __always_inline void go_on(struct __sk_buff *skb, struct course *c, struct work *w, const enum hook hook)
{
	struct flow *flow = c->flow;

	if (c->judging && !c->deferred) {
		keep(flow, &w->decision, w->epoch);
		if (hook == POD_EGRESS && c->forward)
			flow->state = (flow->state & ~(FLOW_DIALLED | FLOW_EXIT)) | (c->to_exit ? FLOW_EXIT : 0);
		if (hook == DEVICE_EXIT && c->forward)
			flow->state &= ~FLOW_OTHER;
	} else if (c->deferred && !(flow->state & FLOW_DIALLED)) {
		flow->state |= FLOW_DIALLED | FLOW_EXIT;
		flow->verdict = VERDICT_PENDING;
	}
	if (c->to_exit && c->pass)
		stamp_flow(skb, w, flow, 0);
	touch(flow, &w->packet, direction_of(hook), w->now);
}

/* False: the connection cannot be remembered. */
static __always_inline bool begin_flow(struct __sk_buff *skb, struct course *c, struct work *w, const enum hook hook)
{
	struct decision *decision = &w->decision;
	struct flow *fresh = &w->fresh;

	if (c->deferred)
		decision->verdict = VERDICT_PENDING;
	__builtin_memset(fresh, 0, sizeof(*fresh));
	keep(fresh, decision, w->epoch);
	fresh->last_ns = w->now;
	fresh->sequence = w->packet.sequence;
	fresh->direction = c->opened;
	fresh->state = (c->node ? FLOW_FROM_NODE : 0) | (c->to_exit ? FLOW_EXIT : 0) |
		       (c->deferred ? FLOW_DIALLED : 0);
	if (c->masked) {
		fresh->state |= FLOW_OTHER;
		__builtin_memcpy(fresh->other, w->origin.source, 16);
		fresh->other_port = w->origin.source_port;
	}
	if (c->opened != direction_of(hook) || (w->key.protocol == PROTOCOL_TCP && !is_new_tcp(&w->packet))) {
		fresh->state |= FLOW_REPLIED;
		if (decision->verdict == VERDICT_ALLOW)
			decision->reason = REASON_ADOPTED;
	}
	if (c->to_exit)
		stamp_flow(skb, w, fresh, 1);
	if (!c->known)
		take_place(&w->key, w->now);
	return !flows.update(&w->key, fresh);
}

/* The row of a verdict that is new. */
static __always_inline void tell(const struct course *c, struct work *w)
{
	struct window once = {};

	describe(w, c->opened, c->peer, c->peer_port, w->decision.verdict, w->decision.reason, w->decision.rule);
	if (!c->pass) {
		denied(w);
		return;
	}
	first_of(&once, w);
	if (!emit(&w->what, &once, 1))
		count(COUNT_RING_FULL);
}

/*
 * The connection of w->key, found or made, and judged under the epoch of now.
 * True: it passes. node: the packet is the node's own. known_source: w->origin
 * says who sent it.
 */
static __always_inline bool admit(struct __sk_buff *skb, struct work *w, struct endpoint *endpoint, const enum hook hook,
				  bool node, bool known_source)
{
	struct flow *known = flows.lookup(&w->key);
	struct course c = {.known = known, .node = node, .known_source = known_source};

	c.flow = continued(known, w, &c, hook);
	take_up(&c, w, hook);
	look_behind_nat(&c, w, hook);
	if (c.judging)
		decide(&c, w, endpoint, hook);
	c.pass = c.deferred || w->decision.verdict != VERDICT_DENY;
	if (c.flow) {
		go_on(skb, &c, w, hook);
		if (hook != DEVICE_EXIT && !c.judging && passes(w->decision.verdict))
			remember_passage(skb, w, direction_of(hook), c.to_exit);
	} else if (c.pass && !begin_flow(skb, &c, w, hook)) {
		count(COUNT_CONNTRACK_FULL);
		refuse(w, c.opened, REASON_MAP_FULL);
		return 0;
	}
	if (hook == DEVICE_EXIT && c.forward && !is_zero(w->dialled) && (c.judging || w->origin.confirm))
		confirm(w);
	if (!c.pass || !(c.deferred || (c.flow && !c.pending)))
		tell(&c, w);
	return c.pass;
}

#endif
