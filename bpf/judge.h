/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Policy: may these two be connected? What user space has compiled answers by two
 * look-ups, of the side that the epoch chooses.
 */
#ifndef KUBEWEIR_JUDGE_H
#define KUBEWEIR_JUDGE_H

static __always_inline void take_row(struct decision *out, const struct row *row, u32 *entries)
{
	out->rule = row->rule;
	out->verdict = row->verdict;
	out->reason = row->reason;
	*entries = row->ports;
}

/*
 * May the pod's end of w->key be connected with this peer in this direction?
 * peer and port are those of the other end: NAT may show another one in the
 * key. Reads the side that the epoch chose.
 */
static __always_inline void judge(struct work *w, struct endpoint *endpoint, u32 direction, const u8 *peer_address,
				  u16 peer_port, bool node, struct decision *out)
{
	u32 side = w->epoch & 1, entries;
	struct address_key address = {.prefix = 128};
	struct row_key key = {.set = endpoint->set[side], .direction = direction};
	u16 port = direction == EGRESS ? peer_port : w->key.local_port;
	struct answer *answer;
	struct peer *peer;
	struct row *row;

	__builtin_memcpy(address.address, peer_address, 16);
	peer = addresses.lookup(&address);
	out->kind = KIND_WORLD;
	if (peer) {
		key.identity = peer->identity[side];
		out->kind = peer->kind[side];
	}
	out->identity = key.identity;
	out->rule = 0;
	out->verdict = VERDICT_ALLOW;
	if (node) {
		out->reason = REASON_NODE;
		return;
	}
	if (same(w->key.local, peer_address)) {
		out->reason = REASON_SELF;
		return;
	}
	row = rows.lookup(&key);
	if (row)
		take_row(out, row, &entries);
	else
		take_row(out, &endpoint->defaults[side][direction & 1][out->kind < KINDS ? out->kind : KIND_WORLD],
			 &entries);
	if (!entries)
		return;
	struct port_key entry = {
		.prefix = 56, .row = entries, .protocol = w->key.protocol, .port = {port >> 8, port & 0xff}};
	answer = ports.lookup(&entry);
	if (!answer)
		return;
	out->rule = answer->rule;
	out->verdict = answer->verdict;
	out->reason = answer->reason;
}

static __always_inline bool is_own(const struct endpoint *endpoint, const u8 *address)
{
	/* A pod without a family has zeros there, which an IPv6 packet may have for its source. */
	return !is_zero(address) && (same(address, endpoint->address[0]) || same(address, endpoint->address[1]));
}

static __always_inline bool passes(u8 verdict)
{
	return verdict == VERDICT_ALLOW || verdict == VERDICT_AUDIT;
}

#endif
