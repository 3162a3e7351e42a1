/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The table of connections (connection tracking, conntrack): the key of a packet, how
 * long an entry lives, and how many an endpoint may have.
 *
 * THEORY OF OPERATION
 *
 *   1. The key has a local end (the pod's) and a peer, so that both directions
 *      of a connection find the same entry. A connection between two pods of one node
 *      has two entries, one per endpoint.
 *   2. A packet that opens a connection is judged in its own direction, and the
 *      verdict is stored. Later packets and replies follow the entry, so a reply needs
 *      no policy of its own. A TCP SYN without ACK is always judged.
 *   3. The entry carries the epoch of its verdict. When the epoch has moved, the next
 *      packet judges the connection again, in the direction in which it was opened.
 *   4. Entries expire lazily: a packet that finds an expired entry replaces it.
 *   5. The number of entries is bounded for each pod (places.h), so that a scan from
 *      one pod evicts that pod's own connections and no other pod's.
 *
 * Example: pod 10.244.1.7 (endpoint 3) opens TCP 40000 -> 10.244.1.9:80. The entry is
 * {local 10.244.1.7:40000, remote 10.244.1.9:80, endpoint 3} with direction EGRESS.
 * The SYN-ACK arrives with source 10.244.1.9:80 and destination 10.244.1.7:40000,
 * builds the same key, and passes by that entry although its direction is INGRESS.
 */
#ifndef KUBEWEIR_CONNECTIONS_H
#define KUBEWEIR_CONNECTIONS_H

/*
 * As nf_conntrack's defaults (nf_conntrack_proto_*.c), except for established TCP, which it keeps for five days: a
 * packet that comes later is looked up there (adoption.h).
 */
#define TIMEOUT_TCP (6 * 3600 * SECOND)
#define TIMEOUT_TCP_UNANSWERED (120 * SECOND)
#define TIMEOUT_TCP_CLOSING (120 * SECOND)
#define TIMEOUT_ANSWERED (180 * SECOND)
#define TIMEOUT_UNANSWERED (30 * SECOND)

/*
 * How far from the sequence number that its sender sent lately FIN and RST may be, in bytes: 1 of 8 forged ones fits.
 * The fast path (recent.h) does not store the number, so it is up to RECENT_TICKS old: this is 60 Gbit/s for 32 ms.
 */
#define CLOSING_WINDOW (1U << 28)

static __always_inline void connection_key_of(struct connection_key *key, const struct packet *packet, u32 direction)
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
	/* An echo request is never a reply, so the direction of the requests is part of the key. */
	key->role = ROLE_ICMP + direction;
	key->local_port = packet->destination_port;
	key->remote_port = 0;
	if (echo || is_echo_reply(packet)) {
		key->role = ROLE_ECHO + (echo ? direction : !direction);
		key->local_port = packet->source_port;
	}
}

static __always_inline bool is_expired(const struct connection *connection, u8 protocol, u64 now)
{
	u64 age = now - connection->last_ns, limit = TIMEOUT_UNANSWERED;

	/* Another CPU may have written a later time than this run read. */
	if (now < connection->last_ns)
		return 0;
	if (protocol == PROTOCOL_TCP)
		limit = connection->state & CONNECTION_CLOSING	 ? TIMEOUT_TCP_CLOSING
			: connection->state & CONNECTION_REPLIED ? TIMEOUT_TCP
								 : TIMEOUT_TCP_UNANSWERED;
	else if (connection->state & CONNECTION_REPLIED)
		limit = TIMEOUT_ANSWERED;
	return age > limit;
}

/* Whether the packet belongs to the connection. A SYN opens a new one, unless it is a retransmission. */
static __always_inline bool continues(const struct connection *connection, const struct packet *packet, u32 direction)
{
	if (!is_new_tcp(packet))
		return 1;
	return connection->direction == direction && connection->sequence == packet->sequence &&
	       !(connection->state & CONNECTION_CLOSING);
}

/* Whether a sequence number is at most so far from another one, before or behind it. */
static __always_inline bool is_near(u32 sequence, u32 other, u32 distance)
{
	return sequence - other + distance <= 2 * distance;
}

/*
 * Whether FIN or RST may end the connection. An outsider who knows addresses and ports can forge them, and whoever
 * receives them ignores one outside its window. Yes if nothing is known of what the sender has sent.
 */
static __always_inline bool is_credible_end(const struct connection *connection, const struct packet *packet, u32 direction)
{
	u32 sent = connection->sent[direction & 1];

	return !sent || is_near(packet->sequence, sent, CLOSING_WINDOW);
}

static __always_inline void touch(struct connection *connection, const struct packet *packet, u32 direction, u64 now)
{
	bool is_closing = packet->tcp_flags & (TCP_FIN | TCP_RST);

	connection->last_ns = now;
	if (connection->direction != direction && !(connection->state & CONNECTION_REPLIED))
		connection->state |= CONNECTION_REPLIED;
	/* Nor does a forged one make the next one credible. */
	if (is_closing && !is_credible_end(connection, packet, direction))
		return;
	if (packet->sequence)
		connection->sent[direction & 1] = packet->sequence;
	if (is_closing)
		connection->state |= CONNECTION_CLOSING;
}

#endif
