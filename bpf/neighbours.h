/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * ARP, neighbour discovery and multicast listener messages. Policy does not apply to
 * them, because without them no address can be used at all. What passes unjudged must
 * carry nothing else, and must not speak for others:
 *
 *   - A frame is no longer than the protocol needs, so that two pods of one bridge
 *     cannot exchange data in it.
 *   - A pod announces its own addresses only: the sender's address of an ARP frame, the
 *     target of a neighbour advertisement, the source of a solicitation, and the target of one
 *     from the unspecified address (duplicate address detection, RFC 4862 section 5.4).
 *     That holds for link-local addresses, too: a gateway may have one. A pod's own is
 *     read with its link-layer address (own_frames.h).
 *   - A pod is not a router: router advertisements and redirects are dropped.
 *
 * As long as an interface has no endpoint, its pod's addresses are not known: then it may
 * announce each that is neither the node's nor another pod's of the node.
 */
#ifndef KUBEWEIR_NEIGHBOURS_H
#define KUBEWEIR_NEIGHBOURS_H

/* A minimal Ethernet frame: 28 bytes of ARP are 42 with the header, and some stacks pad them. */
#define ARP_FRAME 60
/* Two VLAN tags. */
#define TAGS 8
/* IPv6 header, message and options: a link-layer address and a nonce (RFC 7527) of 8 bytes each, and some room. */
#define DISCOVERY_PACKET (40 + 24 + 32)
/* IPv6 header, router alert, and a report on 16 groups (RFC 3810 section 5.2: 20 bytes each, without sources). */
#define LISTENER_PACKET (40 + 8 + 8 + 16 * 20)

/* RFC 826, for Ethernet and IPv4. */
struct arp {
	u16 hardware;
	u16 protocol;
	u8 hardware_length;
	u8 protocol_length;
	u16 operation;
	u8 sender_mac[6];
	u8 sender[4];
	u8 target_mac[6];
	u8 target[4];
};

/* Whether an address belongs to no other pod of this node, nor to the node. */
static __always_inline bool is_unclaimed(const struct work *w, const u8 *address, u32 ifindex)
{
	u32 local = local_ifindex(w, address);

	return local == LOCAL_NONE || local == ifindex;
}

/* Whether a pod may say where an address is. endpoint: 0 if its own addresses are not known. */
static __always_inline bool may_speak_for(struct __sk_buff *skb, const struct work *w, const struct endpoint *endpoint,
					  const u8 *address)
{
	u32 ifindex = skb->ifindex;

	if (is_link_local(address)) {
		struct link_address *own = link_addresses.lookup(&ifindex);

		return setting(CONFIG_ANY_FRAME) || (own && equal(own->link_local, address));
	}
	return endpoint ? is_own(endpoint, address) : is_unclaimed(w, address, ifindex);
}

/* Whether an ARP frame is no longer than it needs to be, and well-formed. offset: of the message. */
static __always_inline bool is_proper_arp(struct __sk_buff *skb, u32 offset, u32 *sender)
{
	struct arp arp;

	if (skb->len > ARP_FRAME + TAGS || bpf_skb_load_bytes(skb, offset, &arp, sizeof(arp)))
		return 0;
	if (arp.hardware != htons(1) || arp.protocol != htons(0x0800) || arp.hardware_length != 6 ||
	    arp.protocol_length != 4)
		return 0;
	__builtin_memcpy(sender, arp.sender, 4);
	return 1;
}

/* Whether a pod may send an ARP frame. */
static __always_inline bool is_own_arp(struct __sk_buff *skb, const struct work *w, const struct endpoint *endpoint)
{
	u8 address[16] __attribute__((aligned(8)));
	u32 sender;

	if (!is_proper_arp(skb, w->packet.transport, &sender))
		return 0;
	/* A probe has no sender's address (RFC 5227 section 2.1.1). */
	if (!sender)
		return 1;
	map_v4(address, sender);
	return may_speak_for(skb, w, endpoint, address);
}

/* Whether a message that is_discovery() has accepted is no longer than it needs to be. */
static __always_inline bool is_short(struct __sk_buff *skb, const struct packet *packet)
{
	u8 type = ICMP_TYPE(packet);
	u32 limit = type >= 133 && type <= 137 ? DISCOVERY_PACKET : LISTENER_PACKET;

	/* Prefixes, DNS servers and quoted packets: only routers send these, and no pod may. */
	if (type == 134 || type == 137)
		return 1;
	/* These frames are longer than the minimum of Ethernet, so nothing is padded. */
	return skb->len <= 14 + TAGS + limit && skb->len == packet->end;
}

/* Whether a pod may send a message that is_discovery() has accepted. The caller looks at sources that are not link-local. */
static __always_inline bool is_proper_discovery(struct __sk_buff *skb, const struct work *w,
						const struct endpoint *endpoint)
{
	const struct packet *packet = &w->packet;
	u8 target[16] __attribute__((aligned(8))), type = ICMP_TYPE(packet);

	if (type == 134 || type == 137 || !is_short(skb, packet))
		return 0;
	/* The option in a solicitation says where its source is. */
	if (is_link_local(packet->source) && !may_speak_for(skb, w, endpoint, packet->source))
		return 0;
	if (type != 136 && !(type == 135 && is_zero(packet->source)))
		return 1;
	if (!load(skb, packet->transport + 8, target, 16, packet->end))
		return 0;
	return may_speak_for(skb, w, endpoint, target);
}

#endif
