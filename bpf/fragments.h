/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Fragments. Only the first fragment of a packet carries the ports, so only it can be
 * judged; the later ones follow its verdict.
 *
 * THEORY OF OPERATION
 *
 *   1. The first fragment (offset 0, more fragments) is judged like any packet. Its
 *      verdict is stored under hook, endpoint, protocol, addresses and the packet's
 *      identification (RFC 791, RFC 8200 section 4.5).
 *   2. A later fragment with the same key passes or is dropped accordingly. Without
 *      an entry it is dropped with reason "fragment": it overtook its first one, or
 *      there never was any.
 *   3. Each hook stores its own verdict, because addresses differ before and after
 *      NAT. FRAGMENT_STAMPED says that the exit judges the packet too, so that each
 *      fragment must carry an origin there (stamps.h).
 *
 * Example: a pod sends a UDP datagram of 4,000 bytes to port 53 with identification
 * 77, as three fragments. The first has the port and is allowed; {pod egress, 77,
 * UDP, addresses} -> FRAGMENT_PASSED lets the other two pass.
 */
#ifndef KUBEWEIR_FRAGMENTS_H
#define KUBEWEIR_FRAGMENTS_H

/* The key under which the first fragment's verdict is stored. */
static __always_inline void fill_fragment_key(struct work *w, u32 hook)
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

/* Apply the first fragment's verdict to a later one. */
static __always_inline int follow_first_fragment(struct __sk_buff *skb, struct work *w, const enum hook hook)
{
	u8 *verdict;

	fill_fragment_key(w, hook);
	verdict = fragments.lookup(&w->fragment);
	if (!verdict)
		return refuse(w, hook == POD_INGRESS ? INGRESS : EGRESS, REASON_FRAGMENT);
	if (*verdict == FRAGMENT_DENIED) {
		count(COUNT_FRAGMENT_DROPPED);
		return TC_ACT_SHOT;
	}
	if (hook == POD_EGRESS && *verdict == FRAGMENT_STAMPED) {
		fill_origin(skb, w);
		w->origin.confirm = 0;
		stamp(skb, w);
	}
	return TC_ACT_UNSPEC;
}

/* Judge a packet whose key and endpoint are known; return the program's return value. */
static __always_inline int judge_packet(struct __sk_buff *skb, struct work *w, struct endpoint *endpoint,
					const enum hook hook, bool node, bool known_source)
{
	bool pass;
	u8 verdict;

	if (w->packet.fragment == FRAGMENT_LATER)
		return follow_first_fragment(skb, w, hook);
	pass = admit(skb, w, endpoint, hook, node, known_source);
	if (w->packet.fragment == FRAGMENT_FIRST) {
		fill_fragment_key(w, hook);
		verdict = !pass							? FRAGMENT_DENIED
			  : hook == POD_EGRESS && skb->tc_index != STAMP_JUDGED ? FRAGMENT_STAMPED
										: FRAGMENT_PASSED;
		fragments.update(&w->fragment, &verdict);
	}
	return pass ? TC_ACT_UNSPEC : TC_ACT_SHOT;
}

#endif
