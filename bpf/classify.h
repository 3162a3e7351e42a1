/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What a parsed packet is: neighbour discovery, an echo, an ICMP error, the beginning of a TCP connection.
 */
#ifndef KUBEWEIR_CLASSIFY_H
#define KUBEWEIR_CLASSIFY_H

/*
 * RFC 4861: types 133 to 137 with a hop limit of 255, which proves that no router has forwarded them.
 * RFC 2710 and 3810: multicast listener messages, types 130 to 132 and 143, with a hop limit of 1.
 */
static __always_inline bool is_discovery(const struct packet *packet)
{
	u8 type = ICMP_TYPE(packet);

	if (packet->protocol != PROTOCOL_ICMPV6 || packet->fragment != FRAGMENT_NONE)
		return 0;
	if (type >= 133 && type <= 137)
		return packet->hops == 255;
	return ((type >= 130 && type <= 132) || type == 143) && packet->hops == 1;
}

static __always_inline bool is_echo_request(const struct packet *packet)
{
	return (packet->protocol == PROTOCOL_ICMP && ICMP_TYPE(packet) == 8) ||
	       (packet->protocol == PROTOCOL_ICMPV6 && ICMP_TYPE(packet) == 128);
}

static __always_inline bool is_echo_reply(const struct packet *packet)
{
	return (packet->protocol == PROTOCOL_ICMP && ICMP_TYPE(packet) == 0) ||
	       (packet->protocol == PROTOCOL_ICMPV6 && ICMP_TYPE(packet) == 129);
}

/* Unreachable, time exceeded, parameter problem, IPv6's packet too big: each quotes the packet that it is about. */
static __always_inline bool is_icmp_error(const struct packet *packet)
{
	u8 type = ICMP_TYPE(packet);

	if (packet->protocol == PROTOCOL_ICMP)
		return type == 3 || type == 11 || type == 12;
	return packet->protocol == PROTOCOL_ICMPV6 && type >= 1 && type <= 4;
}

/* With FIN or RST as well: Linux drops such a SYN, but other stacks open a connection. */
static __always_inline bool is_new_tcp(const struct packet *packet)
{
	return (packet->tcp_flags & (TCP_SYN | TCP_ACK)) == TCP_SYN;
}

#endif
