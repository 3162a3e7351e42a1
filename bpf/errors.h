/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * ICMP errors: a host or a router says why a packet did not arrive, and quotes the
 * beginning of that packet. Policy does not name errors, but path MTU discovery needs
 * them, so an error passes if policy allows the quoted packet's connection *now*.
 *
 * THEORY OF OPERATION
 *
 *   1. An error may come from any router, so its source says nothing. What it quotes
 *      must be a packet that went the other way: the quoted source is the error's
 *      destination, and the quoted addresses and ports lead to an entry of the table
 *      of connections that is not expired.
 *   2. The entry's verdict counts if it is of the current epoch. Otherwise policy is
 *      asked again: a change that leaves the connection alone does not stop path MTU
 *      discovery, and a revocation stops errors with the next packet.
 *   3. Of TCP, the quoted sequence number must be near one that its sender sent lately
 *      (SEQUENCE_WINDOW).
 *   4. While one generation of maps takes over from another (probe/kernel/generations.py),
 *      the quoted packet may have passed a program of the other one, just before the
 *      interface was moved or between the moves of its two hooks. An error is
 *      not sent again, so the entry is looked up in the other generation's table as well, which is
 *      in the map other_table until all connections are carried over. No generation
 *      has the other's epoch: policy is asked again.
 *   5. Anything else is judged by policy, as an ordinary packet in its own direction:
 *      redirects, errors about errors, errors about a later fragment.
 *
 * NAT translates the quoted packet as well. So a pod that dialled a Service gets errors
 * that quote the Service's address, which is the address in the pod's own entry.
 *
 * Example: pod 10.244.1.7 sends 1,500 bytes to 203.0.113.9:443, and a router allows
 * 1,400. "Fragmentation needed" from 198.51.100.1 to 10.244.1.7 quotes
 * 10.244.1.7:40000 -> 203.0.113.9:443, which is the pod's connection, and passes,
 * although no policy allows 198.51.100.1.
 */
#ifndef KUBEWEIR_ERRORS_H
#define KUBEWEIR_ERRORS_H

/*
 * How far a quoted sequence number may be from the stored one, in bytes. The fast path
 * (recent.h) does not store it, so it is up to RECENT_TICKS old. More than this is in
 * flight on very fast paths only; there the error about the retransmission fits, because
 * a sender that waits for an answer stores the number of each retransmission. The check
 * stops an outsider who knows addresses and ports from guessing: 1 of 128 numbers fits.
 * It does not replace the receiver's own check, which knows the window exactly.
 */
#define SEQUENCE_WINDOW (1U << 24)

/* Copy to w->fresh the entry of w->key if it has not expired: ours, or the other generation's without its place. */
static __always_inline bool find_quoted(struct work *w)
{
	struct connection *connection = connections.lookup(&w->key);
	u32 zero = 0;
	void *table;

	if (connection && !is_expired(connection, w->key.protocol, w->now)) {
		w->fresh = *connection;
		return 1;
	}
	table = other_table.lookup(&zero);
	connection = table ? bpf_map_lookup_elem(table, &w->key) : 0;
	if (!connection || is_expired(connection, w->key.protocol, w->now))
		return 0;
	w->fresh = *connection;
	w->fresh.place = 0;
	return 1;
}

/* Whether policy allows the connection of w->key, which must not be expired, now. Changes nothing of it. */
static __always_inline bool is_allowed_now(struct work *w, struct endpoint *endpoint,
					   const struct connection *connection)
{
	const u8 *peer = w->key.remote;
	u16 port = w->key.remote_port;

	if (connection->verdict == VERDICT_PENDING)
		return 0;
	if (connection->epoch == w->epoch)
		return connection->verdict != VERDICT_DENY;
	if (connection->state & CONNECTION_OTHER) {
		peer = connection->other;
		port = connection->other_port;
	}
	judge(w, endpoint, connection->direction & 1, peer, port, connection->state & CONNECTION_FROM_NODE,
	      &w->decision);
	return passes(w->decision.verdict);
}

/* Whether the sender may have sent this sequence number lately. Yes if nothing is known of what it sent. */
static __always_inline bool is_near_sent(const struct connection *connection, const struct packet *quoted,
					 u32 direction)
{
	u32 sent = connection->sent[direction & 1];

	return !sent || is_near(quoted->sequence, sent, SEQUENCE_WINDOW);
}

/* Whether an ICMP error is about a connection that policy allows now. Then w->key is that connection's. */
static __always_inline bool is_about_allowed(struct __sk_buff *skb, struct work *w, struct endpoint *endpoint,
					     const u32 direction)
{
	struct packet quoted = {.end = w->packet.end};
	const struct connection *connection = &w->fresh;
	int parsed;

	if (w->packet.protocol == PROTOCOL_ICMP)
		parsed = parse_v4(skb, w->packet.transport + 8, &quoted, 1);
	else
		parsed = parse_v6(skb, w->packet.transport + 8, &quoted, 1);
	if (parsed != PARSED || quoted.fragment == FRAGMENT_LATER || is_icmp_error(&quoted) ||
	    !equal(w->packet.destination, quoted.source))
		return 0;
	w->key.role = ROLE_NONE;
	connection_key_of(&w->key, &quoted, !direction);
	if (find_quoted(w) && is_allowed_now(w, endpoint, connection) &&
	    (quoted.protocol != PROTOCOL_TCP || is_near_sent(connection, &quoted, !direction))) {
#ifdef ENDS
		find_counted(w, &w->key, connection->place);
#endif
		return 1;
	}
	connection_key_of(&w->key, &w->packet, direction);
	return 0;
}

#endif
