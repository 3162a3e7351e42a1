/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The maps, and the scratch memory of one program run. Every map except works and
 * recents is pinned below PIN, so that enforcement outlives the probe.
 *
 * BPF_F_NO_PREALLOC is set where user space alone writes; maps that programs write
 * are preallocated, because a program cannot wait for memory. Names have at most
 * 15 characters (BPF_OBJ_NAME_LEN).
 */
#ifndef KUBEWEIR_MAPS_H
#define KUBEWEIR_MAPS_H

/*
 * Budgets bound the connections and fragments (places.h, fragments.h). An LRU hash evicts
 * while some entries are still free: 128 for each CPU and 128 in common (LOCAL_FREE_TARGET
 * in kernel/bpf/bpf_lru_list.c). The maps have room for these and for some more.
 */
#define LRU_SPARE (128 * (POSSIBLE_CPUS + 8))
#define CONNECTION_ENTRIES (CONNECTIONS + CONNECTIONS / 16 + LRU_SPARE)

/* Flows that all accounts together may have looked up in a period (adoption.h). */
#define LOOKUPS_IN_PERIOD (4 * ENDPOINTS > 2048 ? 4 * ENDPOINTS : 2048)

#define ROUND_UP_TO_POWER_OF_TWO(number) (1U << (32 - __builtin_clz((number) - 1)))

/* Lists of policies that ask to be logged (logging.h). */
#define LOGGED_RULES 65536

/* Pods' interfaces, also those that nothing is known of yet: of any number, so that every generation shares the map. */
#define LINK_ADDRESSES 16384

#define PINNED(type, key, value, name, size, flags) BPF_F_TABLE(type ":" PIN "/" #name, key, value, name, size, flags)

PINNED("array", u32, u64, config, CONFIG_WORDS, 0);
PINNED("percpu_array", u32, u64, counters, COUNTERS, 0);
/* Policy, written by probe/kernel/installer.py. */
PINNED("hash", u32, struct endpoint_sides, endpoints, ENDPOINTS, 0);
PINNED("hash", u32, struct link_address, link_addresses, LINK_ADDRESSES, BPF_F_NO_PREALLOC);
PINNED("lpm_trie", struct address_key, struct peer, addresses, ADDRESSES, BPF_F_NO_PREALLOC);
PINNED("hash", struct policy_key, struct policy_entry, policy_entries, POLICY_ENTRIES, BPF_F_NO_PREALLOC);
PINNED("lpm_trie", struct port_key, struct port_entry, port_entries, PORT_ENTRIES, BPF_F_NO_PREALLOC);
/* Addresses of this node: a local pod's with the index of its interface, the node's own with LOCAL_NODE. */
PINNED("hash", struct local_key, struct local, local_addresses, LOCAL_ADDRESSES, BPF_F_NO_PREALLOC);
/* UDP ports at which nodes unwrap packets (encapsulation.h): a bit for each. */
PINNED("array", u32, u64, tunnel_ports, 65536 / 64, 0);
/* Connections and fragments. */
PINNED("lru_hash", struct connection_key, struct connection, connections, CONNECTION_ENTRIES, 0);
PINNED("hash", u32, struct place, places, CONNECTIONS, 0);
/* Places that a CPU is emptying, and since when (places.h). */
PINNED("hash", u32, u64, emptying, 64 + 4 * POSSIBLE_CPUS, 0);
PINNED("lru_hash", struct fragment_key, struct fragment, fragments, FRAGMENTS + LRU_SPARE, 0);
PINNED("hash", u32, struct fragment_key, fragment_places, FRAGMENTS, 0);
PINNED("hash", u32, struct budget, budgets, 2 * ENDPOINTS + 2, 0);
/* Deny windows (verdicts.h): of each pair, one map is active and the other idle. */
PINNED("hash", struct verdict_key, struct deny_window, deny_windows_0, DENIED_FLOWS, 0);
PINNED("hash", struct verdict_key, struct deny_window, deny_windows_1, DENIED_FLOWS, 0);
PINNED("hash", struct verdict_key, struct deny_window, floods_0, 16 * ENDPOINTS + 1024, 0);
PINNED("hash", struct verdict_key, struct deny_window, floods_1, 16 * ENDPOINTS + 1024, 0);
/* Which verdicts are logged (logging.h), written by probe/kernel/logged_verdicts.py: rule numbers; endpoint numbers. */
PINNED("hash", u32, struct logged_rule, logged_rules, LOGGED_RULES, BPF_F_NO_PREALLOC);
PINNED("hash", u32, u8, logged_subjects, 2 * ENDPOINTS, BPF_F_NO_PREALLOC);
/* What the limits leave and have cut (limits.h). User space takes what it has read out of the second. */
PINNED("array", u32, struct limit, limits, 2, 0);
PINNED("hash", struct limited_key, u64, limited, 2 * ENDPOINTS + 1024, 0);
/* Origins of packets on their way to an exit (stamps.h): by slot, and by skb->hash. One by hash is a connection's. */
PINNED("array", u32, struct origin, slots, SLOTS, 0);
PINNED("percpu_array", u32, u32, cursors, 1, 0);
PINNED("lru_hash", u32, struct origin, origins, CONNECTION_ENTRIES, 0);
/* By the last bits of skb->hash: of interfaces without an endpoint, which have no connections (unready.h). */
PINNED("array", u32, struct origin, unready_origins, UNREADY_ORIGINS, 0);
/*
 * Backends of connections that were dialled while another generation takes over (stamps.h). Who dials more than fit has
 * its answers later, as without this map.
 */
PINNED("lru_hash", struct connection_key, struct backend, backends, 4096 + LRU_SPARE, 0);
/* The connections of the other generation, while one takes over from another; otherwise empty (errors.h). */
PINNED("array_of_maps$connections", u32, u32, other_table, 1, 0);

/* What bcc's BPF_RINGBUF_OUTPUT declares, with a size in bytes instead of pages. */
struct ring_table {
	int key;
	u32 leaf;
	int (*ringbuf_output)(void *, u64, u64);
	void *(*ringbuf_reserve)(u64);
	void (*ringbuf_discard)(void *, u64);
	void (*ringbuf_submit)(void *, u64);
	u32 max_entries;
};
__attribute__((section("maps/ringbuf:" PIN "/events"))) struct ring_table events = {.max_entries = RING_BYTES};
/*
 * Mid-flow packets to be looked up in nf_conntrack (adoption.h), and when each flow was. Both have room for the look-ups
 * of two periods. An entry of the ring has a header of 8 bytes, and the ring's size is a power of two.
 */
#define UNKNOWN_FLOWS_BYTES ROUND_UP_TO_POWER_OF_TWO(2 * LOOKUPS_IN_PERIOD * (sizeof(struct unknown_flow) + 8))
__attribute__((section("maps/ringbuf:" PIN "/unknown_flows"))) struct ring_table unknown_flows = {
	.max_entries = UNKNOWN_FLOWS_BYTES};
PINNED("lru_hash", struct connection_key, u64, looked_up, 2 * LOOKUPS_IN_PERIOD + LRU_SPARE, 0);

#ifdef ENDS
/* What connections carry, and reports of it (ends.h). */
PINNED("array", u32, struct traffic, traffic, CONNECTIONS, 0);
#define ENDS_BYTES (RING_BYTES / 4 > 65536 ? RING_BYTES / 4 : 65536)
__attribute__((section("maps/ringbuf:" PIN "/connection_ends"))) struct ring_table connection_ends = {
	.max_entries = ENDS_BYTES};
#endif

#define SECOND 1000000000ULL

struct decision {
	u32 rule;
	u32 identity;
	u32 kind; /* of the peer */
	u8 verdict;
	u8 reason;
};

enum hook {
	POD_EGRESS,  /* the pod sends */
	DEVICE_EXIT, /* the packet leaves the node, or crosses to another pod of it */
	POD_INGRESS, /* the pod receives */
};

/* The account that pays for what a packet makes us store (budgets.h). */
struct payer {
	u32 endpoint;
	u32 account;
};

/* The choice of a place (places.h). */
struct choice {
	u64 worth;  /* of the place that is looked at */
	u64 most;
	u32 best;   /* the place that is worth most */
	u32 likely; /* the place that is tried first; NO_PLACE: none */
	u32 own;    /* how many of its own the account may take; 0: none */
	u32 first;  /* the first of its own */
	u32 lent_from;
	u8 borrows;	 /* any lent places */
	u8 borrows_more; /* lent places that it does not have already */
	u8 is_empty;	 /* the best place: nothing is in it */
	u8 is_mine;	 /* the place that is looked at: the account pays for it */
	u8 occupancy;	 /* of the place that is looked at */
	u8 padding[7];
};

/*
 * What one run works on. The stack has 512 bytes, which this exceeds, so it lives in
 * a per-CPU array. No run that handles a packet interrupts another one on its CPU.
 */
struct work {
	struct packet packet;
	struct connection_key key;
	struct fragment_key fragment_key;
	struct verdict_key verdict_key;
	struct connection fresh;
	struct unknown_flow unknown_flow;
	struct origin origin;
	struct decision decision;
	struct deny_window window;
	struct payer payer;
	struct choice choice;
	struct place place;
	struct place old_place;
	u64 now;
	u32 epoch; /* read once, so that one packet sees one side */
	u16 dialled_port;
	u8 stamped;	/* the packet carries its origin to the exit */
	u8 unnamed;	/* the peer is surely not who has its address (sources.h) */
	u8 dialled[16]; /* the destination before DNAT, or zero */
	u32 fence;	/* what fence() in places.h adds to */
	u32 from;	/* the interface by which the packet came to the node */
	u8 sender;	/* enum sender (budgets.h) */
	u8 refused;	/* verdict_key is to be logged as denied */
	u8 unstored;	/* fresh is to be stored under key */
	u8 is_later;	/* and then later_fresh under later_key */
	u16 source_port; /* of the verdict; verdict_key may be without it */
	struct connection_key later_key;
	struct connection later_fresh;
#ifdef ENDS
	u32 counted; /* place of the connection that the packet is counted for; 0: none (ends.h) */
	u32 serial;  /* of its traffic */
	u8 closes;   /* FIN and RST of the packet, if they are marked there */
	u8 padding;
	u16 backend_port; /* where the connection to the dialled address goes, while w->key has that */
	u8 backend[16];
	/* What expire_places counts. The verifier of older kernels would follow each pair of values of two registers. */
	u32 used;
	u32 unreported;
	struct logged_verdict logged;
	struct logged_verdict later_logged;
#endif
};
/* The second one is for add_connection, the third for expire_places: on older kernels a packet may interrupt them. */
#ifdef ENDS
#define WORKS 3
#else
#define WORKS 2
#endif
BPF_F_TABLE("percpu_array", u32, struct work, works, WORKS, 0);

static __always_inline u64 setting(u32 word)
{
	u64 *value = config.lookup(&word);

	return value ? *value : 0;
}

static __always_inline void count(u32 counter)
{
	u64 *value = counters.lookup(&counter);

	if (value)
		*value += 1;
}

/* In a program that user space runs: on older kernels a packet may come between reading and writing. */
static __always_inline void count_undisturbed(u32 counter, u64 many)
{
	u64 *value = counters.lookup(&counter);

	if (value)
		__sync_fetch_and_add(value, many);
}

#endif
