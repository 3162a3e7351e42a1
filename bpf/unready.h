/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What an interface may do that carries our programs and has no endpoint: nothing is
 * known of its pod yet, or whose it is is not sure, or its policy is not installed.
 *
 * It may talk with its own node only, because kubelet's probes must
 * not fail. Who the node is, is decided by what cannot be forged:
 *
 *   - To the pod: the node itself has made the packet (ingress_ifindex is 0).
 *   - From the pod: TCP, UDP or ICMP to an address that the node holds, from an address
 *     that is not another pod's and not the node's. What the node might unwrap is refused
 *     (encapsulation.h), and so are fragments of UDP, whose port is not known.
 *
 * DNAT may turn the node's address into another (a NodePort, a hostPort). So such a
 * packet carries an origin without an endpoint, by which every exit refuses it. Should
 * it lose its stamp, the exit finds the origin in unready_origins, by skb->hash. A packet
 * does not pass if another flow has taken its place there in the last STAMP_AGE. So such
 * an interface with many flows evicts no pod's origin, and none that an exit still needs.
 */
#ifndef KUBEWEIR_UNREADY_H
#define KUBEWEIR_UNREADY_H

/* Return whether a packet of a pod without an endpoint may pass, and mark it so that it passes to the node only. */
static __always_inline bool pass_to_node(struct __sk_buff *skb, struct work *w)
{
	u8 protocol = w->packet.protocol;
	struct origin *known;
	u32 index;

	if (protocol == PROTOCOL_UDP && (w->packet.fragment != FRAGMENT_NONE || is_encapsulation(&w->packet)))
		return 0;
	if (protocol != PROTOCOL_TCP && protocol != PROTOCOL_UDP && protocol != PROTOCOL_ICMP &&
	    protocol != PROTOCOL_ICMPV6)
		return 0;
	if (!is_unclaimed(w, w->packet.source, skb->ifindex))
		return 0;
	/* Before anything is installed, only the routes say which addresses are the node's. */
	if (local_ifindex(w, w->packet.destination) != LOCAL_NODE && !is_delivered_here(skb, &w->packet))
		return 0;
	fill_origin(skb, w);
	w->origin.confirm = 0;
	index = w->origin.hash % UNREADY_ORIGINS;
	known = unready_origins.lookup(&index);
	if (!known || (known->hash != w->origin.hash && w->now - known->time_ns < STAMP_AGE))
		return 0;
	*known = w->origin;
	stamp(skb, w);
	return 1;
}

#endif
