/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Keys and values of the maps. probe/kernel/layout.py holds the twins;
 * tests/kernel/test_layout.py pins the sizes that the loaded maps report.
 *
 * What changes together is kept twice: [2] below is the side, chosen by the
 * parity of the epoch. User space builds a change on the idle side and writes
 * the epoch, one word, so that no packet sees half of a change.
 */
#ifndef KUBEWEIR_LAYOUT_H
#define KUBEWEIR_LAYOUT_H

enum direction {
	EGRESS = 0,  /* out of the pod: the host side's ingress */
	INGRESS = 1, /* into the pod: the host side's egress */
};

/* What an address is, as far as the API knows. */
enum kind {
	KIND_POD = 0,
	KIND_NODE = 1,
	KIND_WORLD = 2,
	KINDS = 3,
	KIND_SERVICE = 3, /* a pod's only after kube-proxy's DNAT; without that, the world's */
};

/* __sk_buff.tc_index of what left a pod: 0 none of ours, 1 to SLOTS a slot's number, or judged. */
#define CHUNK 64
#define CHUNKS 1023 /* coprime with CPU_STRIDE, so that a CPU's chunks are all of them in turn */
#define SLOTS (CHUNKS * CHUNK)
#define STAMP_JUDGED 0xfffe

/* Who sent a packet to where, for the hook by which it leaves the node: NAT may hide both. */
struct origin {
	u64 time_ns;
	u8 source[16];
	u8 destination[16];	/* as dialled */
	u32 hash;		/* skb->hash, which NAT leaves alone */
	u32 ifindex;		/* of the endpoint */
	u32 endpoint;
	u16 source_port;	/* as in struct packet */
	u16 destination_port;
	u8 protocol;
	u8 confirm;		/* the dialled flow waits for what the exit finds */
	u8 padding[6];
};

/* Index into config. Each is one aligned word: a write is seen whole. */
enum config_word {
	CONFIG_EPOCH = 0,	/* its parity chooses the side */
	CONFIG_GENERATION = 1,	/* its parity chooses the deny windows */
	CONFIG_WINDOW_NS = 2,	/* how long a deny window is */
	CONFIG_FIRSTS = 3,	/* first denies an endpoint may log in a window */
	CONFIG_RING_ID = 4,	/* random, of the ring buffer */
	CONFIG_FLOWS = 5,	/* connections that an endpoint may have remembered */
	CONFIG_WORDS = 8,
};

/* Index into counters, which are per CPU. enrich and metrics know them by these names in lower case. */
enum counter {
	COUNT_RING_FULL = 0,	 /* rows lost: an allow, and no room in the ring */
	COUNT_WINDOWS_FULL = 1,	 /* packets lost to the log: no room in any deny window */
	COUNT_DEFERRED = 2,	 /* first denies that found the ring full; they come with their window */
	COUNT_AGGREGATED = 3,	 /* denied packets that were counted without addresses */
	COUNT_UNPARSABLE = 4,	 /* packets dropped */
	COUNT_NOT_IP = 5,	 /* packets dropped: neither IP nor ARP */
	COUNT_FLOODED = 6,	 /* packets dropped: not for this endpoint */
	COUNT_FRAGMENT_DROPPED = 7, /* packets dropped: a later fragment of a denied first */
	COUNT_CONNTRACK_FULL = 8, /* connections that could not be remembered */
	COUNTERS = 16,
};

/* The answer where no port entry matches, and which port entries there are (0: none). */
struct row {
	u32 ports;
	u32 rule;
	u8 verdict;
	u8 reason;
	u8 padding[2];
};

/* By interface index. */
struct endpoint {
	u32 number;
	u32 ready;		 /* 0: no policy yet, everything is denied */
	u64 attached_ns;	 /* CLOCK_MONOTONIC; 0: no older than its programs */
	u8 address[2][16];	 /* v4-mapped IPv4, then IPv6; zero: has none */
	u32 set[2];		 /* by side */
	struct row defaults[2][2][KINDS]; /* by side, direction, kind of peer */
};

struct address_key {
	u32 prefix;
	u8 address[16];
};

/* An address of this node or of a pod on it. */
struct local_key {
	u8 address[16];
};

/* What an address stands for; by side. */
struct peer {
	u32 identity[2];
	u8 kind[2];
	u8 padding[2];
};

struct row_key {
	u32 set;
	u32 identity;
	u32 direction;
};

/* prefix: 40 is every port of the protocol, 56 is one port. */
struct port_key {
	u32 prefix;
	u32 row;
	u8 protocol;
	u8 port[2];	/* network order: a prefix starts at its high bits */
	u8 padding;
};

struct answer {
	u32 rule;
	u8 verdict;
	u8 reason;
	u8 padding[2];
};

/* One entry a connection and endpoint, whoever opened it: local is the pod's end. */
struct flow_key {
	u8 local[16];
	u8 remote[16];
	u32 endpoint;
	u8 protocol;
	u8 role;	/* ROLE_*: what never is a reply has its direction in the key */
	u16 local_port;
	u16 remote_port;
	u16 padding[3];
} __attribute__((aligned(8)));

#define ROLE_NONE 0
#define ROLE_ECHO 1	 /* + the direction of its requests */
#define ROLE_ICMP 3	 /* + the packet's direction: neither answers the other */

struct flow {
	u64 last_ns;
	u32 epoch;	/* under which it was judged */
	u32 rule;
	u32 identity;
	u32 sequence;	/* TCP: of the SYN, to tell a retransmission */
	u32 hash;	/* under which its origin was written */
	u8 direction;	/* in which it was opened */
	u8 verdict;	/* 0: to be judged at the exit */
	u8 reason;
	u8 state;	/* FLOW_* */
	u8 other[16];	/* FLOW_OTHER: the backend behind what was dialled, or the source behind a masquerade */
	u16 other_port;
	u8 padding[6];
};

#define VERDICT_PENDING 0

#define FLOW_REPLIED 0x01
#define FLOW_CLOSING 0x02
#define FLOW_FROM_NODE 0x04 /* the node called, or it is the node that answers */
#define FLOW_DIALLED 0x08   /* to a Service's address: serves replies, once the exit has let it through */
#define FLOW_EXIT 0x10	    /* judged at the exit too: not to a pod's address */
#define FLOW_OTHER 0x20

/* A later fragment follows its first. */
struct fragment_key {
	u32 endpoint;
	u32 id;
	u8 direction;
	u8 protocol;
	u8 padding[2];
	u8 source[16];
	u8 destination[16];
};

/* A denied flow within a window. Without addresses: a flood's, or a packet that could not be read. */
struct window_key {
	u8 source[16];
	u8 destination[16];
	u32 endpoint;
	u32 rule;
	u16 source_port;
	u16 destination_port;
	u8 protocol;
	u8 verdict;
	u8 reason;
	u8 flags;
} __attribute__((aligned(8)));

struct window {
	u64 first_ns;	/* of the packets counted here */
	u64 last_ns;	/* of any packet; kept when the count is taken */
	u32 count;	/* not told yet */
	u32 identity;
	u16 dialled_port;
	u8 tcp_flags;
	u8 padding[5];
	u8 dialled[16];
};

/* What an endpoint has used of what it may. */
struct budget {
	u32 generation;	/* of the deny windows in which it told */
	u32 told;	/* first denies in that generation */
	u32 next;	/* place that its next connection takes */
	u32 padding;
};

/* One of the places that an endpoint's connections take in turn; CONFIG_FLOWS of them. */
struct place {
	u32 endpoint;
	u32 number;
};

/* What BPF_PROG_RUN hands to close_windows: a frame's worth of nothing, then this. */
#define CLOSE_KEYS 48

struct close_request {
	u8 frame[16];
	u32 generation;	/* parity of the idle windows */
	u32 flood;	/* 0: windows by flow, 1: by endpoint */
	u32 keys;
	u32 padding;
	struct window_key key[CLOSE_KEYS];
};

#endif
