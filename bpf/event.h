/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * struct verdict: the event that programs put into the ring buffer. The same 88
 * bytes travel in batches on Kafka and are the numpy dtype enrich.wire.batch.VERDICT;
 * tests/enrich/wire/test_batch.py pins all three to the same layout.
 *
 * Little endian, no implicit padding. Addresses are 16 bytes, with IPv4 as v4-mapped
 * IPv6 (RFC 4291 2.5.5.2), so that one code path serves both families. A verdict
 * marked VERDICT_AGGREGATED has no addresses.
 */
#ifndef KUBEWEIR_EVENT_H
#define KUBEWEIR_EVENT_H

struct verdict {
	__u64 time_ns;	 /* CLOCK_MONOTONIC of the first packet counted */
	__u8 source[16]; /* the true source, even behind a masquerade */
	__u8 destination[16];
	__u8 dialled[16];	/* the Service address before DNAT, else zero */
	__u16 source_port;	/* ICMP: the echo identifier, else 0 */
	__u16 destination_port; /* ICMP: type << 8 | code */
	__u16 dialled_port;
	__u8 protocol;	/* IANA number; ICMP 1, ICMPv6 58 */
	__u8 tcp_flags; /* of the first packet counted */
	__u32 endpoint; /* the local pod's number; 0: none */
	__u32 identity; /* the peer's identity number; 0: unknown to the cluster */
	__u32 rule;	/* number of the list of policies that decided; 0: none */
	__u32 count;	/* packets; 1 for an allow */
	__u32 span_ms;	/* from time_ns to the last packet counted */
	__u8 verdict;	/* enum verdict_kind, with VERDICT_INGRESS */
	__u8 reason;	/* enum verdict_reason */
	__u8 flags;	/* VERDICT_AGGREGATED, VERDICT_UNNAMED, VERDICT_CUT */
	__u8 padding;
};

enum verdict_kind {
	VERDICT_ALLOW = 1,
	VERDICT_DENY = 2,
	VERDICT_AUDIT = 3, /* passed, but would have been denied */
};

/* Bit 7 of verdict.verdict: the packet was on its way into the pod. */
#define VERDICT_INGRESS 0x80

/* verdict.flags */
#define VERDICT_AGGREGATED 0x01 /* counts many flows, without addresses */
#define VERDICT_UNNAMED 0x02	/* the peer is surely not who has its address */
#define VERDICT_CUT 0x04	/* a denial that is not logged; alerts count it (logging.h) */

/* A record's "reason" is one of these names in lower case (enrich.wire.batch.Reason). */
enum verdict_reason {
	REASON_UNKNOWN = 0,
	REASON_NO_POLICY = 1,	 /* allowed: no policy selects the pod in this direction */
	REASON_POLICY = 2,	 /* allowed by the policies of the rule */
	REASON_DEFAULT_DENY = 3, /* denied: the policies of the rule isolate the pod */
	REASON_EXPLICIT_DENY = 4,
	REASON_NODE = 5,	  /* allowed: the pod's own node */
	REASON_SELF = 6,	  /* allowed: the pod itself */
	REASON_SPOOFED = 7,	  /* denied: the source is not the pod's address */
	REASON_UNPARSABLE = 8,	  /* denied */
	REASON_FRAGMENT = 9,	  /* denied: the first fragment was not seen */
	REASON_NOT_READY = 10,	  /* denied: no policy is installed for the pod yet */
	REASON_ADOPTED = 11,	  /* allowed: its first packet was not seen (adoption.h) */
	REASON_FORBIDDEN_ND = 12, /* denied: neighbour discovery that a pod may not send (neighbours.h) */
	REASON_MAP_FULL = 13,	  /* denied: the connection could not be stored */
	REASON_NO_ORIGIN = 14,	  /* denied: a pod's packet leaves, and its sender cannot be determined */
	REASON_ENCAPSULATION = 15, /* denied: encapsulation from a pod to a node (encapsulation.h) */
	REASON_UNKNOWN_FLOW = 16, /* denied: it continues a connection that is not known */
	/* denied: the pod's policies do not fit the maps, so that it is closed */
	REASON_POLICY_INCOMPLETE = 17,
};

#endif
