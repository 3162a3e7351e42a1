/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Encapsulation: packets inside packets. A pod may always reach its own node, and a node
 * that is the end of a tunnel unwraps what arrives: the inner packet goes on, with any
 * source and to any destination. So pods do not send encapsulation to nodes, unless
 * CONFIG_ENCAPSULATION says that policy alone decides.
 *
 * THEORY OF OPERATION
 *
 *   1. What counts as encapsulation: the IP protocols of is_encapsulation(), and UDP to
 *      the ports in tunnel_ports (WEIR_TUNNEL_PORTS, and those of the node's own tunnel
 *      devices).
 *   2. The pod's hook drops it on its way to a node, or to a multicast or broadcast
 *      address, because a VXLAN device may be a member of a group. The exit hook
 *      drops what DNAT has turned towards another node. A pod that has such a port is
 *      not a node.
 *   3. What DNAT turns towards the pod's own node passes no exit. But the kernel unwraps
 *      in place: the inner packet that a tunnel device gives out still carries the
 *      tc_index of the outer one, which is the pod's stamp (skb_scrub_packet in
 *      net/core/skbuff.c leaves it alone). entry_tunnel, at the ingress of tunnel
 *      devices, drops a packet with a pod's stamp, on any port.
 *   4. entry_tunnel clears any other tc_index, so that no stamp attributes what a
 *      tunnel device gives out to a local pod.
 *
 * Example: pod 10.244.1.7 sends UDP to 192.0.2.1:8472, its node, where flannel.1 listens.
 * Inside is a packet from 10.244.9.9, which another pod trusts. The pod's hook drops it,
 * reason "encapsulation". If the pod sends it to the Service 10.96.0.10:53 whose backend is
 * 192.0.2.1:8472, the pod's hook defers the verdict; flannel.1 gives out the inner packet
 * with the pod's stamp, and entry_tunnel drops it.
 */
#ifndef KUBEWEIR_ENCAPSULATION_H
#define KUBEWEIR_ENCAPSULATION_H

/* As libc has it; the shim headers leave it out. */
#define AF_INET6 10

/*
 * IANA numbers: IPv4 4, IPv6 41, GRE 47, ESP 50, AH 51, IPIP 94, EtherIP 97, ENCAP 98, PIM 103 (its register messages),
 * IPComp 108, L2TP 115, MPLS 137.
 */
static __always_inline bool is_tunnel_protocol(u8 protocol)
{
	return protocol == 4 || protocol == 41 || protocol == 47 || protocol == 50 || protocol == 51 ||
	       protocol == 94 || protocol == 97 || protocol == 98 || protocol == 103 || protocol == 108 ||
	       protocol == 115 || protocol == 137;
}

static __always_inline bool is_encapsulation(const struct packet *packet)
{
	u32 word = packet->destination_port / 64;
	u64 *ports;

	if (packet->protocol != PROTOCOL_UDP)
		return is_tunnel_protocol(packet->protocol);
	ports = tunnel_ports.lookup(&word);
	return ports && *ports >> packet->destination_port % 64 & 1;
}

/* Whether the node takes the packet itself: also for an address that no list has, such as a subnet's broadcast. */
static __always_inline bool is_delivered_here(struct __sk_buff *skb, const struct packet *packet)
{
	struct bpf_fib_lookup query = {.ifindex = skb->ifindex};

	if (is_mapped(packet->destination)) {
		query.family = AF_INET;
		query.ipv4_src = ((const u32 *)packet->source)[3];
		query.ipv4_dst = ((const u32 *)packet->destination)[3];
	} else {
		query.family = AF_INET6;
		__builtin_memcpy(query.ipv6_src, packet->source, 16);
		__builtin_memcpy(query.ipv6_dst, packet->destination, 16);
	}
	return bpf_fib_lookup(skb, &query, sizeof(query), 0) == BPF_FIB_LKUP_RET_NOT_FWDED;
}

static __always_inline bool leads_to_node(struct __sk_buff *skb, const struct work *w, const enum hook hook)
{
	struct address_key key = {.prefix = 128};
	u32 kind = KIND_WORLD;
	struct peer *peer;

	if (is_multicast(w->packet.destination))
		return 1;
	__builtin_memcpy(key.address, w->packet.destination, 16);
	peer = addresses.lookup(&key);
	if (peer)
		kind = peer->kind[w->epoch & 1];
	/* DNAT decides where a packet to a Service goes. */
	if (kind == KIND_POD || kind >= KIND_SERVICE)
		return 0;
	if (kind == KIND_NODE || local_ifindex(w, w->packet.destination) == LOCAL_NODE)
		return 1;
	return hook == POD_EGRESS && is_delivered_here(skb, &w->packet);
}

static __always_inline bool is_forbidden_tunnel(struct __sk_buff *skb, const struct work *w, const enum hook hook)
{
	return hook != POD_INGRESS && is_encapsulation(&w->packet) && !setting(CONFIG_ENCAPSULATION) &&
	       leads_to_node(skb, w, hook);
}

static __always_inline int refuse_encapsulation(struct work *w)
{
	count(COUNT_ENCAPSULATION);
	return refuse(w, EGRESS, REASON_ENCAPSULATION);
}

/* How old the origin of an unwrapped packet may be: reassembly waits this long for other fragments. */
#define UNWRAPPED_AGE (60 * SECOND)

/*
 * Return the origin of the packet that was unwrapped, if a pod's hook stamped it. Other
 * programs may set tc_index too, so the hash must fit as well. Only a packet that was
 * reassembled, or whose protocol has no ports, has another one afterwards.
 */
static __always_inline struct origin *unwrapped_origin(struct __sk_buff *skb, const struct work *w, u32 stamped)
{
	u32 index = stamped - 1;
	struct origin *origin = index < SLOTS ? slots.lookup(&index) : 0;

	if (!origin || origin->time_ns > w->now || w->now - origin->time_ns > UNWRAPPED_AGE)
		return 0;
	if (origin->protocol == PROTOCOL_UDP && !origin->fragment && origin->hash != bpf_get_hash_recalc(skb))
		return 0;
	return origin->protocol == PROTOCOL_UDP || is_tunnel_protocol(origin->protocol) ? origin : 0;
}

/* Fill the key of the verdict about the outer packet. */
static __always_inline void describe_unwrapped(struct work *w, const struct origin *origin)
{
	w->key.endpoint = origin->endpoint;
	__builtin_memcpy(w->key.local, origin->source, 16);
	__builtin_memcpy(w->key.remote, origin->destination, 16);
	w->key.local_port = origin->source_port;
	w->key.remote_port = origin->destination_port;
	w->key.protocol = origin->protocol;
}

#endif
