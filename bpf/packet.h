/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Parse a frame to the fields that policy is about. parse_plain() accepts what nearly
 * every packet looks like, with direct access to the linear part; parse() accepts
 * everything, through bpf_skb_load_bytes, which reads beyond the linear part too.
 * Both refuse a header that does not fit into the length that the IP header states.
 */
#ifndef KUBEWEIR_PACKET_H
#define KUBEWEIR_PACKET_H

#define TCP_FIN 0x01
#define TCP_SYN 0x02
#define TCP_RST 0x04
#define TCP_ACK 0x10

#define PROTOCOL_ICMP 1
#define PROTOCOL_TCP 6
#define PROTOCOL_UDP 17
#define PROTOCOL_ICMPV6 58
#define PROTOCOL_SCTP 132

#define ICMP_TYPE(packet) ((packet)->destination_port >> 8)

/* The kernel walks any number; a packet with more than this many is dropped as unparsable. */
#define EXTENSION_HEADERS 8

struct packet {
	u8 source[16];
	u8 destination[16];
	u16 source_port;      /* host order; ICMP: identifier of the echo */
	u16 destination_port; /* host order; ICMP: type << 8 | code */
	u8 protocol;
	u8 tcp_flags;
	u8 fragment; /* FRAGMENT_* */
	u8 hops;     /* TTL or hop limit */
	u32 fragment_id;
	u32 sequence;  /* TCP */
	u32 transport; /* offset of the transport header */
	u32 end;       /* offset behind the packet, as its IP header states; parse_plain() leaves it out */
	u16 extent;    /* FRAGMENT_FIRST: length of its payload; FRAGMENT_LATER: offset of its payload */
	u16 padding;
	u64 link; /* parse_plain() only: the frame's source and EtherType, as they are */
} __attribute__((aligned(8)));

#define FRAGMENT_NONE 0
#define FRAGMENT_FIRST 1
#define FRAGMENT_LATER 2

enum parsed {
	PARSED = 0,
	PARSED_ARP = 1,
	PARSED_NOT_IP = 2,
	PARSED_UNPARSABLE = 3,
};

/*
 * Every read is bounded twice: by the frame, and by the length that the IP header
 * states. Bytes behind that length are not part of the packet, and the receiver
 * ignores them; a program that read them could be shown another port or another TCP
 * flag than the receiver sees.
 */
static __always_inline bool load(struct __sk_buff *skb, u32 offset, void *to, const u32 size, u32 end)
{
	return offset + size <= end && !bpf_skb_load_bytes(skb, offset, to, size);
}

/*
 * Return the offset behind a packet of this length, or 0 if the frame does not hold it.
 * A length of 0 stands for more than 64 KiB (BIG TCP, RFC 2675): only the kernel itself
 * makes such packets, to be segmented later.
 */
static __always_inline u32 end_of(struct __sk_buff *skb, u32 offset, u32 length, bool is_stated)
{
	if (!is_stated)
		return skb->gso_size ? skb->len : 0;
	return offset + length <= skb->len ? offset + length : 0;
}

/* quoted: an ICMP error need not quote more than 8 bytes after the IP header (RFC 792). */
static __always_inline int parse_ports(struct __sk_buff *skb, struct packet *packet, const bool quoted)
{
	u16 head[7] = {};
	bool tcp = packet->protocol == PROTOCOL_TCP, sctp = packet->protocol == PROTOCOL_SCTP;
	bool icmp = packet->protocol == PROTOCOL_ICMP || packet->protocol == PROTOCOL_ICMPV6;
	u32 header;

	if (!tcp && !icmp && !sctp && packet->protocol != PROTOCOL_UDP)
		return PARSED;
	if (tcp && !quoted) {
		if (!load(skb, packet->transport, head, 14, packet->end))
			return PARSED_UNPARSABLE;
		packet->tcp_flags = ntohs(head[6]) & 0xff;
		/* The whole header, also in a first fragment (RFC 1858): else the next one could add to it or replace it. */
		header = ntohs(head[6]) >> 12 << 2;
		if (header < 20 || packet->transport + header > packet->end)
			return PARSED_UNPARSABLE;
	} else {
		header = sctp && !quoted ? 12 : 8;
		if (packet->transport + header > packet->end || bpf_skb_load_bytes(skb, packet->transport, head, 8))
			return PARSED_UNPARSABLE;
	}
	/* Through locals: a choice between array elements becomes pointer arithmetic that the verifier refuses. */
	u16 first = ntohs(head[0]), second = ntohs(head[1]), third = ntohs(head[2]);

	if (tcp)
		packet->sequence = (u32)third << 16 | ntohs(head[3]);
	packet->source_port = icmp ? third : first;
	packet->destination_port = icmp ? first : second;
	return PARSED;
}

/* quoted: packet->end is set already, because an ICMP error quotes less than the quoted header states. */
static __always_inline int parse_v4(struct __sk_buff *skb, u32 offset, struct packet *packet, const bool quoted)
{
	struct iphdr ip;

	if (!load(skb, offset, &ip, sizeof(ip), quoted ? packet->end : skb->len))
		return PARSED_UNPARSABLE;
	if (ip.version != 4 || ip.ihl < 5)
		return PARSED_UNPARSABLE;
	map_v4(packet->source, ip.saddr);
	map_v4(packet->destination, ip.daddr);
	packet->protocol = ip.protocol;
	packet->hops = ip.ttl;
	packet->transport = offset + ip.ihl * 4;
	packet->fragment_id = ntohs(ip.id);
	if (!quoted)
		packet->end = end_of(skb, offset, ntohs(ip.tot_len), ip.tot_len);
	if (packet->transport > packet->end)
		return PARSED_UNPARSABLE;
	/* RFC 791: three flag bits, of which the last is "more fragments", then the offset in units of 8 bytes. */
	if (ip.frag_off & htons(0x1fff)) {
		packet->fragment = FRAGMENT_LATER;
		packet->extent = ntohs(ip.frag_off) << 3;
		return PARSED;
	}
	if (ip.frag_off & htons(0x2000)) {
		packet->fragment = FRAGMENT_FIRST;
		packet->extent = packet->end - packet->transport;
	}
	return parse_ports(skb, packet, quoted);
}

static __always_inline bool is_extension(u8 next)
{
	/* RFC 8200 section 4.1: hop-by-hop 0, routing 43, fragment 44, authentication 51, destination 60. */
	return next == 0 || next == 43 || next == 44 || next == 51 || next == 60;
}

static __always_inline int parse_v6(struct __sk_buff *skb, u32 offset, struct packet *packet, const bool quoted)
{
	struct ipv6hdr ip;
	u8 next;

	if (!load(skb, offset, &ip, sizeof(ip), quoted ? packet->end : skb->len))
		return PARSED_UNPARSABLE;
	if (ip.version != 6)
		return PARSED_UNPARSABLE;
	__builtin_memcpy(packet->source, &ip.saddr, 16);
	__builtin_memcpy(packet->destination, &ip.daddr, 16);
	/* In our maps a mapped address means IPv4; on the wire it must not appear (RFC 4942 section 2.2). */
	if (is_mapped(packet->source) || is_mapped(packet->destination))
		return PARSED_UNPARSABLE;
	packet->hops = ip.hop_limit;
	offset += sizeof(ip);
	next = ip.nexthdr;
	/* A packet without payload has the length 0 too: that is not a jumbogram unless the kernel says so. */
	if (!quoted)
		packet->end = end_of(skb, offset, ntohs(ip.payload_len), ip.payload_len || !skb->gso_size);
#pragma unroll
	for (int i = 0; i < EXTENSION_HEADERS; i++) {
		u8 head[8];

		if (!is_extension(next))
			break;
		if (!load(skb, offset, head, 8, packet->end))
			return PARSED_UNPARSABLE;
		if (next == 44) {
			packet->fragment_id = (u32)head[4] << 24 | (u32)head[5] << 16 | (u32)head[6] << 8 | head[7];
			next = head[0];
			offset += 8;
			if (head[2] || head[3] & 0xf8) {
				packet->protocol = next;
				packet->fragment = FRAGMENT_LATER;
				packet->extent = (u16)head[2] << 8 | (head[3] & 0xf8);
				return PARSED;
			}
			if (head[3] & 1) {
				packet->fragment = FRAGMENT_FIRST;
				packet->extent = packet->end - offset;
			}
			continue;
		}
		/* Lengths: RFC 4302 counts units of 4 bytes, minus 2; the others count units of 8 bytes, minus 1. */
		offset += next == 51 ? (head[1] + 2) * 4 : (head[1] + 1) * 8;
		next = head[0];
	}
	if (is_extension(next) || offset > packet->end)
		return PARSED_UNPARSABLE;
	packet->protocol = next;
	packet->transport = offset;
	return parse_ports(skb, packet, quoted);
}

/* 802.1Q and 802.1ad: the real EtherType follows four bytes later. */
static __always_inline bool is_tag(u16 type)
{
	return type == htons(0x8100) || type == htons(0x88a8);
}

/* The caller zeroes *packet. ethernet: 0 for a device without link headers (a tunnel), whose packets begin with IP. */
static __always_inline int parse(struct __sk_buff *skb, struct packet *packet, const bool ethernet)
{
	u32 offset = ethernet ? 14 : 0;
	u16 type = skb->protocol;

	if (ethernet && bpf_skb_load_bytes(skb, 12, &type, 2))
		return PARSED_UNPARSABLE;
#pragma unroll
	for (int i = 0; i < 2; i++) {
		if (!is_tag(type))
			break;
		if (bpf_skb_load_bytes(skb, offset + 2, &type, 2))
			return PARSED_UNPARSABLE;
		offset += 4;
	}
	if (type == htons(0x0800))
		return parse_v4(skb, offset, packet, 0);
	if (type == htons(0x86dd))
		return parse_v6(skb, offset, packet, 0);
	if (type == htons(0x0806)) {
		packet->transport = offset;
		return PARSED_ARP;
	}
	return PARSED_NOT_IP;
}

/*
 * Parse TCP, UDP or SCTP over IPv4 without options or IPv6 without extension headers,
 * untagged, not a fragment, with all headers in the linear part. Return false for
 * anything else, and then *packet must not be used. The caller zeroes *packet.
 */
static __always_inline bool parse_plain(struct __sk_buff *skb, struct packet *packet)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct ethhdr *ethernet = data;
	struct iphdr *v4 = data + sizeof(*ethernet);
	struct ipv6hdr *v6 = data + sizeof(*ethernet);
	u32 length; /* of the transport header and what follows it */
	u16 *head;

	if ((void *)(v4 + 1) > end)
		return 0;
	packet->link = *(const u64 *)ethernet->h_source;
	if (ethernet->h_proto == htons(0x0800)) {
		/* Version 4, a header of five words, neither "more fragments" nor an offset. */
		if (*(u8 *)v4 != 0x45 || v4->frag_off & htons(0x3fff))
			return 0;
		map_v4(packet->source, v4->saddr);
		map_v4(packet->destination, v4->daddr);
		packet->protocol = v4->protocol;
		packet->hops = v4->ttl;
		packet->fragment_id = ntohs(v4->id);
		packet->transport = sizeof(*ethernet) + sizeof(*v4);
		/* A total length below 20 becomes very large, and the frame does not hold that. */
		length = (u32)ntohs(v4->tot_len) - sizeof(*v4);
		head = (u16 *)(v4 + 1);
	} else if (ethernet->h_proto == htons(0x86dd)) {
		if ((void *)(v6 + 1) > end || v6->version != 6)
			return 0;
		copy_v6(packet->source, &v6->saddr);
		copy_v6(packet->destination, &v6->daddr);
		if (is_mapped(packet->source) || is_mapped(packet->destination))
			return 0;
		packet->protocol = v6->nexthdr;
		packet->hops = v6->hop_limit;
		packet->transport = sizeof(*ethernet) + sizeof(*v6);
		length = ntohs(v6->payload_len);
		head = (u16 *)(v6 + 1);
	} else {
		return 0;
	}
	if ((void *)(head + 4) > end || length > skb->len - packet->transport)
		return 0;
	packet->source_port = ntohs(head[0]);
	packet->destination_port = ntohs(head[1]);
	if (packet->protocol == PROTOCOL_UDP || packet->protocol == PROTOCOL_SCTP)
		return length >= (packet->protocol == PROTOCOL_UDP ? 8 : 12);
	if (packet->protocol != PROTOCOL_TCP || (void *)(head + 7) > end)
		return 0;
	packet->sequence = (u32)ntohs(head[2]) << 16 | ntohs(head[3]);
	packet->tcp_flags = ntohs(head[6]) & 0xff;
	/* Five words at least, and no more than there are. */
	return ntohs(head[6]) >> 12 >= 5 && ntohs(head[6]) >> 12 << 2 <= length;
}

#endif
