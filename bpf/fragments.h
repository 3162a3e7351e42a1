/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Fragments. Only the first fragment of a packet carries the ports, so only it can be
 * judged; the later ones follow its verdict.
 *
 * THEORY OF OPERATION
 *
 *   1. The first fragment (offset 0, more fragments) is judged like any packet. Its
 *      verdict is stored under hook, endpoint, addresses, the packet's identification
 *      and for IPv4 its protocol (RFC 791, RFC 8200 section 4.5). The first fragment
 *      must hold the whole transport header (packet.h).
 *   2. A later fragment with the same key passes or is dropped accordingly. Without
 *      an entry it is dropped with reason "fragment": it overtook its first one, or
 *      there never was any.
 *   3. A later fragment that overlaps the first one is dropped as unparsable: it could
 *      replace the header that was judged (RFC 1858, RFC 5722).
 *   4. Each hook stores its own verdict, because addresses differ before and after
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
	w->fragment_key.endpoint = w->key.endpoint;
	w->fragment_key.id = w->packet.fragment_id;
	w->fragment_key.direction = hook;
	w->fragment_key.protocol = is_mapped(w->packet.source) ? w->packet.protocol : 0;
	__builtin_memcpy(w->fragment_key.source, w->packet.source, 16);
	__builtin_memcpy(w->fragment_key.destination, w->packet.destination, 16);
}

#define FRAGMENT_DENIED 0
#define FRAGMENT_PASSED 1
#define FRAGMENT_STAMPED 2

/* Apply the first fragment's verdict to a later one. */
static __always_inline int follow_first_fragment(struct __sk_buff *skb, struct work *w, const enum hook hook)
{
	const u32 direction = hook == POD_INGRESS ? INGRESS : EGRESS;
	struct fragment *first;

	fill_fragment_key(w, hook);
	first = fragments.lookup(&w->fragment_key);
	if (!first)
		return refuse(w, direction, REASON_FRAGMENT);
	if (w->packet.extent < first->extent) {
		count(COUNT_UNPARSABLE);
		return refuse(w, direction, REASON_UNPARSABLE);
	}
	if (first->verdict == FRAGMENT_DENIED) {
		count(COUNT_FRAGMENT_DROPPED);
		return TC_ACT_SHOT;
	}
	if (hook == POD_EGRESS && first->verdict == FRAGMENT_STAMPED) {
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
	struct fragment first = {.extent = w->packet.extent};
	bool pass;

	if (w->packet.fragment == FRAGMENT_LATER)
		return follow_first_fragment(skb, w, hook);
	pass = admit(skb, w, endpoint, hook, node, known_source);
	if (w->packet.fragment == FRAGMENT_FIRST) {
		fill_fragment_key(w, hook);
		first.verdict = pass ? FRAGMENT_PASSED : FRAGMENT_DENIED;
		if (pass && hook == POD_EGRESS && skb->tc_index != STAMP_JUDGED)
			first.verdict = FRAGMENT_STAMPED;
		fragments.update(&w->fragment_key, &first);
	}
	return pass ? TC_ACT_UNSPEC : TC_ACT_SHOT;
}

#endif
