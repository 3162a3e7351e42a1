/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Keys and values of the pinned maps. probe/kernel/layout.py declares the same
 * structs for Python; tests/kernel/test_layout.py compares every offset and size.
 * A change here needs a new VERSION there. An older probe's maps stay pinned below
 * its own version, and are taken over by the names of their fields
 * (probe/kernel/generations.py): a field keeps its name and meaning.
 *
 * Fields marked "by side" exist twice: index 0 and index 1 are the two sides of
 * the epoch switch that judge.h describes.
 */
#ifndef KUBEWEIR_LAYOUT_H
#define KUBEWEIR_LAYOUT_H

enum direction {
	EGRESS = 0,  /* out of the pod: ingress at the host side of the veth */
	INGRESS = 1, /* into the pod: egress at the host side of the veth */
};

/* What an address belongs to, according to the API server. */
enum kind {
	KIND_POD = 0,
	KIND_NODE = 1,
	KIND_WORLD = 2,
	KINDS = 3,
	/* Addresses that clients of Services dial. Where DNAT turns one into another address, that one is judged. */
	KIND_SERVICE = 3,     /* else it is judged as world */
	KIND_POD_SERVICE = 4, /* a Service's external IP, which is a pod's address as well; else it is judged as that pod's */
};

/*
 * Values of __sk_buff.tc_index: 0 means that none of our programs wrote it, 1 to
 * SLOTS name a slot (index + 1), STAMP_JUDGED says that the egress verdict is final.
 */
#define CHUNK 64
#define CHUNKS 1023 /* coprime with CPU_STRIDE, so that every CPU cycles through all chunks */
#define SLOTS (CHUNKS * CHUNK)
#define STAMP_JUDGED 0xfffe
#define STAMP_UNNAMED 0xfffd /* not from a pod's interface, but with a local pod's source address (sources.h) */

/* The true sender and the dialled destination of a packet, for the exit hook (stamps.h): NAT may hide both. */
struct origin {
	u64 time_ns;
	u8 source[16];
	u8 destination[16]; /* before DNAT */
	u32 hash;	    /* skb->hash, which NAT does not change */
	u32 ifindex;	    /* the endpoint's interface */
	u32 endpoint;
	u16 source_port; /* as in struct packet */
	u16 destination_port;
	u8 protocol;
	u8 confirm;  /* the dialled connection still needs the exit's verdict */
	u8 fragment; /* FRAGMENT_* */
	u8 padding;
	u32 counted; /* with ENDS, in a packet's slot: as what it was counted (count_of()); 0: it was not */
};

/* Flows to the node that all interfaces without an endpoint can have together (unready.h). */
#define UNREADY_ORIGINS 8192

/* Index into config. Each value is one aligned 64-bit word, so readers never see a partial write. */
enum config_word {
	CONFIG_EPOCH = 0,	     /* its parity selects the side in force */
	CONFIG_DENY_WINDOW = 1,	     /* number of the current deny window; its parity selects the active maps */
	CONFIG_WINDOW_NS = 2,	     /* length of a deny window */
	CONFIG_POD_DENIED_FLOWS = 3, /* denied flows of an account that are logged one by one in a window */
	CONFIG_RING_ID = 4,	     /* random id of the ring buffer */
	CONFIG_POD_CONNECTIONS = 5,  /* connections that an account of an endpoint may have */
	CONFIG_ENCAPSULATION = 6,    /* 0: pods do not send encapsulation to nodes; 1: policy decides */
	CONFIG_LOCAL_SOURCE = 7,     /* 0: a local pod's source that another device brings in is dropped; 1: it is unnamed */
	CONFIG_LENT_FROM = 8,	     /* number of the first place that no endpoint's reserve covers (places.h) */
	CONFIG_POD_FRAGMENTS = 9,    /* first fragments that are remembered for an account (fragments.h) */
	CONFIG_LOGGING = 10,	     /* which verdicts are logged (logging.h) */
	CONFIG_LIMIT_ALLOWED = 11,   /* allowed connections that are logged in a second; 0: any number (limits.h) */
	CONFIG_LIMIT_DENIED = 12,    /* the same, of verdicts about denied packets and audited connections */
	CONFIG_ANY_SOURCE_PORT = 13, /* 1: denied flows that differ only in their source port have one deny window */
	CONFIG_ANY_FRAME = 14,	     /* 1: pods may send frames with any source and with VLAN tags (own_frames.h) */
	CONFIG_WORDS = 16,
};

/* Index into counters, which are per CPU. Metrics and batch headers use these names in lower case. */
enum counter {
	COUNT_RING_FULL = 0,	     /* allow verdicts lost: no room in the ring */
	COUNT_DENY_WINDOWS_FULL = 1, /* denied packets lost to the log: no room in any deny window */
	COUNT_DEFERRED = 2,	     /* first denials that found the ring full; their window reports them */
	COUNT_AGGREGATED = 3,	     /* denied packets counted without addresses */
	COUNT_UNPARSABLE = 4,	     /* packets dropped */
	COUNT_NOT_IP = 5,	     /* packets dropped: neither IP nor ARP */
	COUNT_FLOODED = 6,	     /* packets dropped: addressed to another endpoint (a bridge flooded them) */
	COUNT_FRAGMENT_DROPPED = 7,  /* packets dropped: a later fragment of a denied first one */
	COUNT_CONNECTIONS_FULL = 8,  /* packets dropped: their connection could not be stored */
	COUNT_NEIGHBOUR_DROPPED = 9, /* ARP and neighbour discovery dropped: too long, or about another's address */
	COUNT_ENCAPSULATION = 10,    /* packets dropped: encapsulation from a pod to a node */
	COUNT_UNKNOWN_FLOW = 11,     /* packets dropped: they continue a connection that is not known */
	COUNT_LOOKUPS_SPARED = 12,   /* mid-flow packets not looked up: again within a second, or the sender has no look-up left */
	COUNT_EVICTIONS = 13,	     /* connections evicted before they expired: a pod has used up its share */
	COUNT_FRAGMENT_EVICTIONS = 14, /* first fragments forgotten within a second: a pod has used up its share */
	COUNT_CUT_ALLOWED = 15, /* allowed connections that are not logged on purpose (logging.h) */
	COUNT_CUT_DENIED = 16,	/* denied packets and audited connections that are not logged on purpose */
	COUNT_LIMITED_ALLOWED = 17, /* allowed connections that are not logged because of the limit (limits.h) */
	COUNT_LIMITED_DENIED = 18,  /* denied packets and audited connections that are not logged because of theirs */
	COUNT_ENDS_LOST = 19,	    /* reports of connections lost: no room in their ring (ends.h) */
	COUNT_ENDS_UNPLACED = 20,   /* reports lost: their connection got no place, so that nothing counts for it */
	COUNT_ENDS_UNCERTAIN = 21,  /* reports withheld: CPUs met at their place, and might have mixed two connections */
	COUNT_FOREIGN_FRAME = 22,   /* frames of pods dropped: not from the interface's own link-layer address, or tagged */
	/* The tally of decisions (verdicts.h): one is an allowed or audited connection, or a denied packet. */
	COUNT_DECIDED = 28,	  /* decisions that a verdict is due for, before anything is cut */
	COUNT_WRITTEN = 29,	  /* decisions that the verdicts in the ring count */
	COUNT_RING_VERDICTS = 30, /* verdicts written to the ring */
	COUNTERS = 32,
};

/* The answer for ports without an entry of their own, and the list of port entries (0: the list is empty). */
struct policy_entry {
	u32 port_list;
	u32 rule;
	u8 verdict;
	u8 reason;
	u8 padding[2];
};

/* A local pod at an interface, on one side. */
struct endpoint {
	u32 number; /* 0: the interface has no pod on this side, everything is denied */
	u32 set;
	u64 attached_ns;   /* CLOCK_MONOTONIC; 0: the interface is not older than the programs */
	u8 address[2][16]; /* v4-mapped IPv4, then IPv6; zero: the pod has no address of that family */
	struct policy_entry defaults[2][KINDS]; /* by direction, kind of peer */
};

/*
 * Key: interface index. Everything is stored by side, so that a pod that appears, moves
 * or disappears does so at the switch, together with the policy about it.
 */
struct endpoint_sides {
	struct endpoint side[2];
};

/* Key: interface index. The link-layer address of the pod's end, the only source of its frames (own_frames.h). */
struct link_address {
	u8 link_local[16]; /* its IPv6 address on the link, the only one that it may speak for (neighbours.h) */
	u8 address[6];
	u8 is_fixed; /* a pod is bound to the interface, and the addresses do not change any more */
	u8 padding;
} __attribute__((aligned(8)));

struct address_key {
	u32 prefix;
	u8 address[16];
};

/* An address of this node or of a pod on it. */
struct local_key {
	u8 address[16];
};

/* The interface of the pod that has the address, by side. */
struct local {
	u32 ifindex[2];
};

#define LOCAL_NODE 0	       /* the address is the node's own */
#define LOCAL_NONE 0xffffffffU /* the address is not local on this side */

/* What an address stands for, by side. */
struct peer {
	u32 identity[2];
	u8 kind[2];
	u8 padding[2];
};

struct policy_key {
	u32 set;
	u32 identity;
	u32 direction;
};

/* prefix: 40 matches every port of the protocol, 56 matches one port, values between match aligned ranges. */
struct port_key {
	u32 prefix;
	u32 port_list;
	u8 protocol;
	u8 port[2]; /* network order, because a trie compares from the high bits */
	u8 padding;
};

struct port_entry {
	u32 rule;
	u8 verdict;
	u8 reason;
	u8 padding[2];
};

/* Key: a rule's number. Under which number its allowed connections are logged (logging.h). */
struct logged_rule {
	u32 rule;
};

/* What one class of verdicts has used of its limit (limits.h). */
struct limit {
	u64 second; /* of CLOCK_MONOTONIC */
	u64 taken;  /* verdicts in it */
};

/* Whose verdicts the limits have cut. */
struct limited_key {
	u32 endpoint;
	u32 verdict; /* enum verdict_kind */
};

/* One entry for each connection and endpoint, whichever end opened it: local is the pod's end. */
struct connection_key {
	u8 local[16];
	u8 remote[16];
	u32 endpoint;
	u8 protocol;
	u8 role; /* ROLE_*: a packet that can never be a reply has its direction in the key */
	u16 local_port;
	u16 remote_port;
	u16 padding[3];
} __attribute__((aligned(8)));

#define ROLE_NONE 0
#define ROLE_ECHO 1 /* + the direction of the echo requests */
#define ROLE_ICMP 3 /* + the direction of the packet: these messages do not answer one another */

struct connection {
	u64 last_ns;
	u32 epoch; /* the epoch of the verdict below */
	u32 rule;
	u32 identity;
	u32 sequence; /* TCP: sequence number of the SYN, to recognize a retransmission */
	u32 hash;     /* the hash under which its origin is stored; 0: it has none */
	u8 direction; /* the direction in which it was opened */
	u8 verdict;   /* VERDICT_PENDING: the exit hook decides */
	u8 reason;
	u8 state;     /* CONNECTION_* */
	u8 other[16]; /* CONNECTION_OTHER: the backend behind the dialled address, or the source behind a masquerade */
	u16 other_port;
	u8 check; /* CHECK_* */
	u8 padding;
	u32 sent[2]; /* TCP: a sequence number sent lately, by the direction of the packet; 0: none is known */
	u32 place;   /* number of its place + 1; 0: it has none yet (places.h) */
};

#define VERDICT_PENDING 0

/* The backend to which an exit has admitted a connection that is not in its generation's table, by the dialled address. */
struct backend {
	u64 time_ns;
	u8 address[16];
	u16 port;
	u16 padding[3];
};

#define CONNECTION_REPLIED 0x01
#define CONNECTION_CLOSING 0x02
#define CONNECTION_FROM_NODE 0x04 /* the node opened it, or the node answers it */
#define CONNECTION_DIALLED 0x08	  /* to a Service address: replies match this entry once the exit has admitted it */
#define CONNECTION_EXIT 0x10	  /* the exit judges it too, because it does not go to a pod's address */
#define CONNECTION_OTHER 0x20
#define CONNECTION_ADOPTED 0x40 /* the probe wrote it, and no packet has passed by it yet (adoption.h) */

/* A mid-flow packet that met no entry: the probe asks nf_conntrack who opened its connection. */
struct unknown_flow {
	struct connection_key key; /* at an exit, with the destination before DNAT */
	u32 payer;		   /* the endpoint of the account that pays for the look-up (budgets.h) */
	u8 account;
	u8 direction;	  /* of the packet */
	u8 just_attached; /* the endpoint is older than its programs, which were attached in the last minute */
	u8 padding;
};

/* A connection to a pod's address: whether DNAT has changed that is checked at the exit. */
#define CHECK_DUE 0x01	    /* no exit has seen a packet of it under this verdict */
#define CHECK_UNLOGGED 0x02 /* the exit is to log it, by its final destination */
/* A connection from a source that is not known to be the pod's that has the address (sources.h). */
#define CHECK_UNNAMED 0x04

/* A later fragment has no ports: this key leads to the verdict of the first fragment. */
struct fragment_key {
	u32 endpoint;
	u32 id;
	u8 direction; /* enum hook */
	u8 protocol;  /* 0 for IPv6, whose later fragments need not name the same next header */
	u8 padding[2];
	u8 source[16];
	u8 destination[16];
};

struct fragment {
	u64 time_ns;
	struct connection_key connection; /* of the packet; of an ICMP error, the one that it is about */
	u32 epoch;			  /* of the verdict */
	u8 verdict;			  /* FRAGMENT_* */
	u8 padding;
	u16 extent; /* length of the first fragment's payload */
};

/* What a verdict is about; the key of a deny window. Addresses are zero for a flood and for unparsable packets. */
struct verdict_key {
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

/* Denied packets of one flow that are counted but not reported yet. */
struct deny_window {
	u64 first_ns; /* first packet in count */
	u64 last_ns;  /* latest packet of the flow, in count or reported already */
	u32 count;
	u32 identity;
	u16 dialled_port;
	u8 tcp_flags;
	u8 account; /* of the endpoint payer: who pays for the window (budgets.h) */
	u32 payer;
	u8 dialled[16];
	u16 source_port; /* of the first packet, if the key has none (CONFIG_ANY_SOURCE_PORT) */
	u16 padding[3];
};

/* An endpoint's accounts (budgets.h): what it sends pays from the first, what reaches it from outside from the second. */
#define ACCOUNT_OWN 0
#define ACCOUNT_OUTSIDE 1
#define ACCOUNTS 2

/* What is counted from 0 on in each period: deny windows (verdicts.h), and look-ups (adoption.h). */
enum counted {
	COUNTED_DENIED_FLOWS = 0,
	COUNTED_LOOKUPS = 1,
	COUNTED = 2,
};

/* How many of these the accounts have taken in the period with this number. */
struct taken {
	u32 period;
	u32 by_account[ACCOUNTS];
};

/* What an account has used. */
struct usage {
	u32 next;	   /* place of its own that is tried next */
	u32 borrowed;	   /* lent places that it has */
	u32 next_fragment; /* place that its next first fragment takes */
	u32 turn;	   /* how many lent places it has tried: they are in a sequence of its own (places.h) */
};

/* Key: an endpoint's number; 0: packets without a pod; LENT: what is lent of all tables together. */
struct budget {
	u32 slot;   /* whose reserve it uses; NO_SLOT: none, it can only borrow */
	u32 spared; /* flows of this endpoint that were not looked up, because it has used up its look-ups */
	struct taken taken[COUNTED];
	struct usage account[ACCOUNTS];
	u64 evicted; /* connections evicted before they expired */
};

#define NO_SLOT 0xffffffffU
#define LENT 0xffffffffU

/* Key: a place's number. Its connection, and the account that pays for it. */
struct place {
	struct connection_key key;
	u32 payer; /* an endpoint's number */
	u32 account;
};

/*
 * What a place's connection has carried since its last report (ends.h), by the direction of the packet as the pod sees
 * it. Key: the place's number. What every packet changes comes first.
 */
struct traffic {
	u64 lately[2]; /* packets and their bytes, and the sum of their tags: one atomic addition changes all */
	u64 marks;     /* the same of FIN and RST: how many have passed, and the sum of their tags */
	u64 owner;     /* a hash of the key of the connection that has the place; 0: none, or it is not counted */
	u32 serial;    /* another one for each connection that has the place: its last byte is the tag */
	u8 fin[2];     /* a FIN has passed, by direction */
	u8 reset;      /* an RST has passed */
	u8 uncertain;  /* something here belongs to another connection */
	u64 reset_at;  /* the serial, and when the last RST passed, in units of 2^30 ns */
	u64 since_ns;  /* the verdict, or the last report */
	u64 ring;     /* id of the ring that has its verdict */
	u64 number;   /* of its verdict, or NO_NUMBER */
	/* What was counted before, which only who has claimed the place changes. */
	u64 bytes[2];
	u64 packets[2];
	struct verdict verdict;
	u32 part; /* reports so far */
	u8 state; /* TRAFFIC_* */
	u8 padding[3];
};

#define TRAFFIC_UNLOGGED 0 /* it has no verdict in a ring, so it is not reported */
#define TRAFFIC_LOGGED 1
#define TRAFFIC_REPORTED 2 /* as ended; what comes nevertheless is reported later */
#define NO_NUMBER 0xffffffffffffffffULL

/* A report of a connection: the entry of the ring connection_ends. */
struct connection_end {
	struct verdict verdict; /* as it was written */
	u64 ring;
	u64 number;
	u64 since_ns; /* since when it is counted here: the verdict, or the last report */
	u64 until_ns; /* the last packet, or the report */
	u64 bytes[2];
	u64 packets[2];
	u32 part; /* 0, 1, 2: a connection may have several reports */
	u8 how;	  /* END_* */
	u8 padding[3];
};

/* How a connection ended. A record has the name in lower case (enrich.wire.ends.How). */
#define END_OPEN 1    /* it lives on */
#define END_CLOSED 2  /* FIN both ways */
#define END_RESET 3   /* a credible RST, and nothing after it */
#define END_TIMEOUT 4 /* quiet for too long */
#define END_REVOKED 5 /* policy allows it no longer */
#define END_POD_GONE 6
#define END_EVICTED 7 /* its entry made room for another one */
#define END_MOVED 8   /* it lives on in another generation of maps, and is not counted there */

/* A verdict that was just written, until its connection has a place. */
struct logged_verdict {
	struct verdict verdict;
	u64 ring;
	u64 number;
	u32 is_waiting;
	u32 padding;
};

/* Input of close_windows through BPF_PROG_RUN, which insists on the length of an Ethernet frame's header. */
#define CLOSE_KEYS 48

struct close_request {
	u8 frame[16];
	u32 parity; /* of the idle maps */
	u32 flood;  /* 0: the keys are of deny_windows_N, 1: of floods_N */
	u32 keys;
	u32 padding;
	struct verdict_key key[CLOSE_KEYS];
};

/*
 * Input of expire_places through BPF_PROG_RUN: it looks at EXPIRE_PLACES places from this one on. Never lower the
 * number: an earlier probe that takes over runs these programs, and goes on by its own number. It would leave places out.
 */
#define EXPIRE_PLACES 64

struct expire_request {
	u8 frame[16];
	u32 from;
	u32 is_last; /* with ENDS, 1: no program counts any more, so all connections are reported (sweep.h) */
	u32 padding[2];
};

/* Input of add_connection through BPF_PROG_RUN: an entry, and the account that pays for its place. */
struct add_request {
	u8 frame[16];
	struct connection_key key;
	struct connection connection;
	u32 payer; /* an endpoint's number */
	u32 account;
};

#endif
