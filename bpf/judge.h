/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Policy: may this pod and this peer be connected? User space has compiled all
 * policies to tables, so that the answer takes three lookups:
 *
 *   addresses       10.244.1.9/128          -> identity 17, kind pod
 *   policy_entries  (set 4, identity 17, ingress) -> port list 9, else deny, rule 3
 *   port_entries    (list 9, TCP, port 80/16 bits) -> allow, rule 3
 *
 * A missing policy entry means the set's default for that kind of peer, which the
 * endpoint itself holds.
 *
 * THEORY OF OPERATION: the epoch and its two sides
 *
 * A change of policy touches many entries, and no packet may see half of it. What
 * changes in place (an address's identity, an endpoint's set and defaults) is
 * therefore stored twice. An endpoint that appears is absent on the other side, so a
 * new pod is closed until the switch and never judged by its set and old identities.
 * Every packet reads the epoch once; its parity is the side that all lookups use.
 * Say the epoch is 6, so side 0 is in force, and a policy moves 10.244.1.9 from
 * identity 17 to 18 and a pod from set 4 to set 5:
 *
 *   1. User space adds the entries of set 5. No endpoint refers to it yet.
 *   2. It writes side 1: the address becomes {17, 18}, the endpoint {4, 5}.
 *      Packets still read side 0 and are judged by set 4 and identity 17.
 *   3. It writes epoch 7. Each packet that reads 7 sees set 5 with identity 18,
 *      and none sees set 5 with identity 17.
 *   4. It waits until no program that read 6 can still be running.
 *   5. It copies side 1 to side 0 ({18, 18} and {5, 5}) and removes set 4.
 *
 * A probe that is killed between two steps leaves the side in force complete; the
 * next one reads the maps and starts again at step 1. Step 3 also makes every
 * connection's stored verdict stale, because it carries epoch 6 (admit.h).
 */
#ifndef KUBEWEIR_JUDGE_H
#define KUBEWEIR_JUDGE_H

/* Return the pod at an interface, on the side that this packet reads; 0 if there is none. */
static __always_inline struct endpoint *endpoint_at(const struct work *w, u32 ifindex)
{
	struct endpoint_sides *sides = endpoints.lookup(&ifindex);
	struct endpoint *endpoint;

	if (!sides)
		return 0;
	endpoint = &sides->side[w->epoch & 1];
	return endpoint->number ? endpoint : 0;
}

/* Return the interface of the local pod that has an address, LOCAL_NODE or LOCAL_NONE. */
static __always_inline u32 local_ifindex(const struct work *w, const u8 *address)
{
	struct local_key key;
	struct local *local;

	__builtin_memcpy(key.address, address, 16);
	local = local_addresses.lookup(&key);
	return local ? local->ifindex[w->epoch & 1] : LOCAL_NONE;
}

/* Return the kind by whose default an address is judged. */
static __always_inline u32 default_kind(u32 kind)
{
	if (kind == KIND_POD_SERVICE)
		return KIND_POD;
	return kind < KINDS ? kind : KIND_WORLD;
}

/*
 * Decide whether the pod's end of w->key may be connected with a peer in a direction.
 * peer_address and peer_port are the true ones, which may differ from the key's
 * because of NAT. node: the peer is the pod's own node, which is always allowed
 * (kubelet's probes, the API's "traffic from the node" rule).
 */
static __always_inline void judge(struct work *w, struct endpoint *endpoint, u32 direction, const u8 *peer_address,
				  u16 peer_port, bool node, struct decision *out)
{
	u32 side = w->epoch & 1;
	struct address_key address = {.prefix = 128};
	struct policy_key key = {.set = endpoint->set, .direction = direction};
	u16 port = direction == EGRESS ? peer_port : w->key.local_port;
	struct policy_entry *policy;
	struct port_entry *entry;
	struct peer *peer;

	__builtin_memcpy(address.address, peer_address, 16);
	/* No host has 0.0.0.0 or ::, so only rules about all addresses, or about blocks that hold these, apply. */
	if (w->unnamed && is_mapped(peer_address))
		__builtin_memset(address.address + 12, 0, 4);
	else if (w->unnamed)
		__builtin_memset(address.address, 0, 16);
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
	if (!w->unnamed && equal(w->key.local, peer_address)) {
		out->reason = REASON_SELF;
		return;
	}
	policy = policy_entries.lookup(&key);
	if (!policy)
		policy = &endpoint->defaults[direction & 1][default_kind(out->kind)];
	out->rule = policy->rule;
	out->verdict = policy->verdict;
	out->reason = policy->reason;
	if (!policy->port_list)
		return;
	struct port_key port_key = {.prefix = 56,
				    .port_list = policy->port_list,
				    .protocol = w->key.protocol,
				    .port = {port >> 8, port & 0xff}};
	entry = port_entries.lookup(&port_key);
	if (!entry)
		return;
	out->rule = entry->rule;
	out->verdict = entry->verdict;
	out->reason = entry->reason;
}

static __always_inline bool is_own(const struct endpoint *endpoint, const u8 *address)
{
	/* A pod without IPv6 has zeros there, and :: is a source that an IPv6 packet may carry. */
	return !is_zero(address) && (equal(address, endpoint->address[0]) || equal(address, endpoint->address[1]));
}

static __always_inline bool passes(u8 verdict)
{
	return verdict == VERDICT_ALLOW || verdict == VERDICT_AUDIT;
}

#endif
