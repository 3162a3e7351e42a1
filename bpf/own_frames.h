/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Frames: a pod sends from the link-layer address of its own interface only, and without VLAN tags.
 *
 * THEORY OF OPERATION
 *
 * A bridge learns from the source of each frame behind which port a link-layer address
 * is. A pod that sends one frame in another pod's name gets that one's packets, or stops
 * them: the hook of its own interface drops what is not for its addresses. And a tag would
 * take a packet that policy allows in one network into another one, where somebody else
 * has its destination.
 *
 *   1. The kernel runs tc programs, TCX or clsact, before it hands a frame to a bridge or a
 *      VLAN device (__netif_receive_skb_core in net/core/dev.c: sch_handle_ingress, then
 *      rx_handler). The bridge learns nothing from a frame that is dropped here.
 *   2. User space reads the address of the pod's end when it attaches the programs, and writes
 *      it to link_addresses (probe/kernel/link_addresses.py). Once a pod is bound to the
 *      interface, the entry stays, even if the pod gives its end another address.
 *   3. Every frame that the slow path judges is compared with it, ARP and neighbour
 *      discovery too. Without an entry none passes (reason "not_ready"). The cache of recent connections
 *      has the source of the frame that was judged, and compares with that (recent.h).
 *   4. With CONFIG_ANY_FRAME pods may send what they like, for virtual machines and
 *      others behind a pod that have addresses of their own.
 *
 * Anything but IPv4, IPv6 and ARP is dropped before (PARSED_NOT_IP): what bridges and
 * switches say to one another (STP, LLDP), PPPoE, MPLS.
 *
 * Example: pod 10.244.1.7 has 02:00:00:00:00:07 at interface 12, and sends a UDP packet that its
 * policy allows from 02:00:00:00:00:09, another pod's. It is dropped, reason "spoofed", and
 * the bridge goes on to send frames for 02:00:00:00:00:09 to that pod.
 */
#ifndef KUBEWEIR_OWN_FRAMES_H
#define KUBEWEIR_OWN_FRAMES_H

enum frame {
	FRAME_OWN,
	FRAME_FOREIGN,
	FRAME_UNKNOWN, /* the interface has just got its programs, or its address cannot be read */
};

/* Whose frame this is that comes from a pod's interface. */
static __always_inline enum frame frame_of(struct __sk_buff *skb)
{
	u32 ifindex = skb->ifindex;
	struct link_address *own;
	u16 source[3], type;

	if (setting(CONFIG_ANY_FRAME))
		return FRAME_OWN;
	if (skb->vlan_present || bpf_skb_load_bytes(skb, 12, &type, 2) || is_tag(type))
		return FRAME_FOREIGN;
	own = link_addresses.lookup(&ifindex);
	if (!own)
		return FRAME_UNKNOWN;
	if (bpf_skb_load_bytes(skb, 6, source, 6))
		return FRAME_FOREIGN;

	const u16 *expected = (const u16 *)own->address;

	if (source[0] != expected[0] || source[1] != expected[1] || source[2] != expected[2])
		return FRAME_FOREIGN;
	return FRAME_OWN;
}

#endif
