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
 *      there never was any, or the receiver waits for it no longer (fragment_age).
 *   3. If the epoch has moved since, the first one's connection is judged again, so a
 *      later fragment follows the policy of now.
 *   4. A later fragment that overlaps the first one is dropped as unparsable: it could
 *      replace the header that was judged (RFC 1858, RFC 5722).
 *   5. Who sent the first fragment pays for its entry (budgets.h). Each account has
 *      CONFIG_POD_FRAGMENTS places in turn: the next entry replaces the account's oldest.
 *      So a flood of fragments evicts those of its own sender only. All places are
 *      shared by the pods that the node has now, so their number changes at times.
 *   6. Each hook stores its own verdict, because addresses differ before and after
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

/* How long a receiver waits for the rest of a packet: 30 s with IPv4 in Linux, 60 s with IPv6 (RFC 8200 section 4.5). */
static __always_inline u64 fragment_age(const struct work *w)
{
	return is_mapped(w->packet.source) ? 30 * SECOND : 60 * SECOND;
}

/* Whether the verdict of a first fragment that has passed still holds. */
static __always_inline bool still_passes(struct work *w, struct endpoint *endpoint, struct fragment *first,
					 const enum hook hook)
{
	struct connection *connection;

	if (first->epoch == w->epoch)
		return 1;
	w->key = first->connection;
	connection = connections.lookup(&w->key);
	if (!connection)
		return 0;
	/* Of a packet to a Service address the exit decides. It may not have seen the first fragment yet. */
	if (!(hook == POD_EGRESS && connection->state & CONNECTION_DIALLED) &&
	    (is_expired(connection, w->key.protocol, w->now) || !is_allowed_now(w, endpoint, connection)))
		return 0;
	first->epoch = w->epoch;
	return 1;
}

/* Store the first fragment's verdict under w->fragment_key. */
static __always_inline void store_fragment(struct work *w, struct fragment *first)
{
	u32 each = setting(CONFIG_POD_FRAGMENTS), account;
	struct fragment_key *replaced;
	struct fragment *lost;
	struct budget *budget;

	/* An entry that exists has a place already. */
	budget = !each || fragments.lookup(&w->fragment_key) ? 0 : find_payer(w);
	if (budget) {
		/* Those without a slot share the first places. */
		account = (budget->slot < ENDPOINTS ? budget->slot + 1 : 0) * ACCOUNTS + w->payer.account;
		u32 place = account * each + usage_of(budget, &w->payer)->next_fragment++ % each;

		replaced = fragment_places.lookup(&place);
		lost = replaced ? fragments.lookup(replaced) : 0;
		/* Fragments of one packet follow each other closely, so the rest of an older one has most likely come. */
		if (lost && w->now - lost->time_ns < SECOND)
			count(COUNT_FRAGMENT_EVICTIONS);
		if (lost)
			fragments.delete(replaced);
		fragment_places.update(&place, &w->fragment_key);
	}
	fragments.update(&w->fragment_key, first);
}

/* Apply the first fragment's verdict to a later one. */
static __always_inline int follow_first_fragment(struct __sk_buff *skb, struct work *w, struct endpoint *endpoint,
						 const enum hook hook)
{
	const u32 direction = hook == POD_INGRESS ? INGRESS : EGRESS;
	struct fragment *first;

	fill_fragment_key(w, hook);
	first = fragments.lookup(&w->fragment_key);
	if (!first || w->now - first->time_ns > fragment_age(w))
		return refuse(w, direction, REASON_FRAGMENT);
	if (w->packet.extent < first->extent) {
		count(COUNT_UNPARSABLE);
		return refuse(w, direction, REASON_UNPARSABLE);
	}
	if (first->verdict == FRAGMENT_DENIED || !still_passes(w, endpoint, first, hook)) {
		first->verdict = FRAGMENT_DENIED;
		count(COUNT_FRAGMENT_DROPPED);
		return TC_ACT_SHOT;
	}
	if (hook == POD_EGRESS && first->verdict == FRAGMENT_STAMPED) {
		fill_origin(skb, w);
		w->origin.confirm = 0;
		stamp(skb, w);
	}
#ifdef ENDS
	struct connection *connection = hook == DEVICE_EXIT ? 0 : connections.lookup(&first->connection);

	if (connection)
		find_counted(w, &first->connection, connection->place);
#endif
	return TC_ACT_UNSPEC;
}

/* Judge a packet whose key and endpoint are known; return the program's return value. */
static __always_inline int judge_packet(struct __sk_buff *skb, struct work *w, struct endpoint *endpoint,
					const enum hook hook, bool node, bool known_source)
{
	bool pass;

	if (w->packet.fragment == FRAGMENT_LATER)
		return follow_first_fragment(skb, w, endpoint, hook);
	if (is_forbidden_tunnel(skb, w, hook))
		pass = refuse_encapsulation(w) != TC_ACT_SHOT;
	else if (hook != DEVICE_EXIT && is_icmp_error(&w->packet) &&
	    is_about_allowed(skb, w, endpoint, hook == POD_INGRESS ? INGRESS : EGRESS))
		pass = 1;
	else
		pass = admit(skb, w, endpoint, hook, node, known_source);
	if (w->packet.fragment == FRAGMENT_FIRST) {
		struct fragment first = {.time_ns = w->now, .epoch = w->epoch, .extent = w->packet.extent};

		first.connection = w->key;
		fill_fragment_key(w, hook);
		first.verdict = pass ? FRAGMENT_PASSED : FRAGMENT_DENIED;
		if (pass && hook == POD_EGRESS && skb->tc_index != STAMP_JUDGED)
			first.verdict = FRAGMENT_STAMPED;
		store_fragment(w, &first);
	}
	return pass ? TC_ACT_UNSPEC : TC_ACT_SHOT;
}

#endif
