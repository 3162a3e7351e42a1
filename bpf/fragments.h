/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * A later fragment has no ports: it follows its first, at each hook on its own.
 */
#ifndef KUBEWEIR_FRAGMENTS_H
#define KUBEWEIR_FRAGMENTS_H

/* What a later fragment is to be found by. */
static __always_inline void note_fragment(struct work *w, u32 hook)
{
	w->fragment.endpoint = w->key.endpoint;
	w->fragment.id = w->packet.fragment_id;
	w->fragment.direction = hook;
	w->fragment.protocol = w->packet.protocol;
	__builtin_memcpy(w->fragment.source, w->packet.source, 16);
	__builtin_memcpy(w->fragment.destination, w->packet.destination, 16);
}

#define FRAGMENT_DENIED 0
#define FRAGMENT_PASSED 1
#define FRAGMENT_STAMPED 2

/* A later fragment follows its first, at each hook on its own. */
static __always_inline int follow(struct __sk_buff *skb, struct work *w, const enum hook hook)
{
	u8 *verdict;

	note_fragment(w, hook);
	verdict = fragments.lookup(&w->fragment);
	if (!verdict)
		return refuse(w, hook == POD_INGRESS ? INGRESS : EGRESS, REASON_FRAGMENT);
	if (*verdict == FRAGMENT_DENIED) {
		count(COUNT_FRAGMENT_DROPPED);
		return TC_ACT_SHOT;
	}
	if (hook == POD_EGRESS && *verdict == FRAGMENT_STAMPED) {
		note_origin(skb, w);
		w->origin.confirm = 0;
		stamp(skb, w);
	}
	return TC_ACT_UNSPEC;
}

/* Of a packet whose key and endpoint are known. */
static __always_inline int judged(struct __sk_buff *skb, struct work *w, struct endpoint *endpoint, const enum hook hook,
				  bool node, bool known_source)
{
	bool pass;
	u8 verdict;

	if (w->packet.fragment == FRAGMENT_LATER)
		return follow(skb, w, hook);
	pass = admit(skb, w, endpoint, hook, node, known_source);
	if (w->packet.fragment == FRAGMENT_FIRST) {
		note_fragment(w, hook);
		verdict = !pass ? FRAGMENT_DENIED
			  : hook == POD_EGRESS && skb->tc_index != STAMP_JUDGED ? FRAGMENT_STAMPED
										 : FRAGMENT_PASSED;
		fragments.update(&w->fragment, &verdict);
	}
	return pass ? TC_ACT_UNSPEC : TC_ACT_SHOT;
}

#endif
