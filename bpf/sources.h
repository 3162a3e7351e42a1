/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Sources: a packet that comes in by a device that is not a pod's must not have a local
 * pod's address as its source, nor a stamp.
 *
 * THEORY OF OPERATION
 *
 * The exits believe stamps, and source addresses where a stamp was lost (stamps.h).
 * pod_egress lets a pod write neither: it sets tc_index and drops other sources. Another
 * device may bring in both. The uplink brings in what the network lets through, and
 * tc_index crosses a veth, so a container or a pod whose interface is not bound yet can
 * choose it. Therefore the ingress of every device that is not a pod's has a program:
 *
 *   1. It clears tc_index.
 *   2. If the source is a local pod's address, it drops the packet (reason "spoofed"),
 *      whether the packet goes to a local pod or on to another machine. The pod that has
 *      the address sends by its own interface, and loopback and bridges, which hand on
 *      what arrived by another device, have no such program.
 *   3. Some networks send a pod's packets back to its own node. For these
 *      CONFIG_LOCAL_SOURCE lets them pass with STAMP_UNNAMED: they are judged as from an
 *      address that nothing is known of, and VERDICT_UNNAMED keeps the address from being
 *      looked up in the log.
 *
 * A device that has just appeared has no program yet. So a pod's hook does not believe
 * STAMP_JUDGED of a packet with a local pod's source that arrived by a younger device
 * than that pod's interface; and if it arrived by an older one, such as a bridge that
 * both are ports of, the pod's hook must have stored its connection.
 *
 * Example: pod 10.244.1.7 is behind interface 12. A packet from 10.244.1.7 comes in by
 * the uplink, interface 2, to pod 10.244.1.9. Its source was forged: it is dropped, and
 * the verdict is about 10.244.1.9, with an unnamed peer.
 */
#ifndef KUBEWEIR_SOURCES_H
#define KUBEWEIR_SOURCES_H

static __always_inline bool load_from_network(struct __sk_buff *skb, u32 offset, void *to, const u32 size)
{
	return !bpf_skb_load_bytes_relative(skb, offset, to, size, BPF_HDR_START_NET);
}

/* Return the offset of the IP header behind VLAN tags, from where the network header begins; *type is its EtherType. */
static __always_inline u32 skip_tags(struct __sk_buff *skb, u16 *type)
{
	u32 offset = 0;

	*type = skb->protocol;
#pragma unroll
	for (int i = 0; i < 2; i++) {
		if (!is_tag(*type))
			break;
		if (!load_from_network(skb, offset + 2, type, 2))
			*type = 0;
		offset += 4;
	}
	return offset;
}

/* Whether the source is the address of a pod that is behind another interface. */
static __always_inline bool has_foreign_source(struct __sk_buff *skb)
{
	struct local_key key = {};
	struct local *local;
	u32 offset, v4, ifindex;
	u16 type;

	offset = skip_tags(skb, &type);
	if (type == htons(0x0800)) {
		if (!load_from_network(skb, offset + 12, &v4, 4))
			return 0;
		*(u16 *)(key.address + 10) = 0xffff;
		*(u32 *)(key.address + 12) = v4;
	} else if (type != htons(0x86dd) || !load_from_network(skb, offset + 8, key.address, 16)) {
		return 0;
	}
	local = local_addresses.lookup(&key);
	if (!local)
		return 0;
	ifindex = local->ifindex[setting(CONFIG_EPOCH) & 1];
	/* If the pod's interface is gone, the address may be its successor's already; the exits drop it until that is bound. */
	return ifindex != LOCAL_NODE && ifindex != LOCAL_NONE && ifindex != skb->ifindex && is_there(skb, ifindex);
}

/* Read what a verdict says: addresses, protocol and ports. */
static __always_inline void describe_headers(struct __sk_buff *skb, struct packet *packet)
{
	struct ipv6hdr v6 = {};
	struct iphdr v4 = {};
	u16 type, ports[2] = {};
	u32 offset = skip_tags(skb, &type);

	if (type == htons(0x0800)) {
		load_from_network(skb, offset, &v4, sizeof(v4));
		map_v4(packet->source, v4.saddr);
		map_v4(packet->destination, v4.daddr);
		packet->protocol = v4.protocol;
		offset += v4.ihl * 4;
		if (v4.frag_off & htons(0x1fff))
			return;
	} else {
		load_from_network(skb, offset, &v6, sizeof(v6));
		copy_v6(packet->source, &v6.saddr);
		copy_v6(packet->destination, &v6.daddr);
		packet->protocol = v6.nexthdr;
		offset += sizeof(v6);
	}
	load_from_network(skb, offset, ports, sizeof(ports));
	if (packet->protocol == PROTOCOL_ICMP || packet->protocol == PROTOCOL_ICMPV6) {
		packet->destination_port = ntohs(ports[0]);
	} else if (packet->protocol == PROTOCOL_TCP || packet->protocol == PROTOCOL_UDP ||
		   packet->protocol == PROTOCOL_SCTP) {
		packet->source_port = ntohs(ports[0]);
		packet->destination_port = ntohs(ports[1]);
	}
}

/* Drop the packet. The verdict is about the local pod that would receive it, if there is one. */
static __always_inline int refuse_source(struct __sk_buff *skb, struct work *w)
{
	struct endpoint *endpoint;

	w->unnamed = 1;
	w->sender = SENDER_OUTSIDE;
	describe_headers(skb, &w->packet);
	endpoint = endpoint_at(w, local_ifindex(w, w->packet.destination));
	w->key.endpoint = endpoint ? endpoint->number : 0;
	connection_key_of(&w->key, &w->packet, endpoint ? INGRESS : EGRESS);
	return refuse(w, endpoint ? INGRESS : EGRESS, REASON_SPOOFED);
}

/* Whether STAMP_JUDGED is not to be believed: the source is a local pod's, and that pod has not sent the packet. */
static __always_inline bool is_forged(struct __sk_buff *skb, struct work *w)
{
	u32 ifindex = local_ifindex(w, w->packet.source);
	struct connection *connection;
	struct endpoint *endpoint;

	if (ifindex == LOCAL_NODE || ifindex == LOCAL_NONE || skb->ingress_ifindex == ifindex)
		return 0;
	/* A reply: if DNAT turned the pod's address into another's, the other one answers in its name. */
	connection_key_of(&w->key, &w->packet, INGRESS);
	connection = connections.lookup(&w->key);
	if (connection && connection->direction == EGRESS)
		return 0;
	endpoint = endpoint_at(w, ifindex);
	if (skb->ingress_ifindex > ifindex || !endpoint)
		return 1;
	/* These pass the pod's hook by another packet's verdict. */
	if (w->packet.fragment == FRAGMENT_LATER || is_icmp_error(&w->packet))
		return 0;
	__builtin_memset(&w->key, 0, sizeof(w->key));
	w->key.endpoint = endpoint->number;
	connection_key_of(&w->key, &w->packet, EGRESS);
	return !connections.lookup(&w->key);
}

#endif
