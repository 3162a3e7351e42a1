/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The maps, all pinned below PIN but for the one that is a run's own memory, and
 * what one run works on.
 */
#ifndef KUBEWEIR_MAPS_H
#define KUBEWEIR_MAPS_H

#define PINNED(type, key, value, name, size, flags) BPF_F_TABLE(type ":" PIN "/" #name, key, value, name, size, flags)

PINNED("array", u32, u64, config, CONFIG_WORDS, 0);
PINNED("percpu_array", u32, u64, counters, COUNTERS, 0);
PINNED("hash", u32, struct endpoint, endpoints, ENDPOINTS, 0);
PINNED("lpm_trie", struct address_key, struct peer, addresses, ADDRESSES, BPF_F_NO_PREALLOC);
PINNED("hash", struct row_key, struct row, rows, ROWS, BPF_F_NO_PREALLOC);
PINNED("lpm_trie", struct port_key, struct answer, ports, PORTS, BPF_F_NO_PREALLOC);
PINNED("lru_hash", struct flow_key, struct flow, flows, FLOWS, 0);
PINNED("lru_hash", struct fragment_key, u8, fragments, 4096, 0);
PINNED("hash", struct window_key, struct window, windows_0, WINDOWS, 0);
PINNED("hash", struct window_key, struct window, windows_1, WINDOWS, 0);
PINNED("hash", struct window_key, struct window, floods_0, 8192, 0);
PINNED("hash", struct window_key, struct window, floods_1, 8192, 0);
PINNED("lru_hash", struct place, struct flow_key, places, FLOWS, 0);
PINNED("hash", u32, struct budget, budgets, 4 * ENDPOINTS, 0);
/* The node's own addresses: a local pod's with its interface, the node's with 0. */
PINNED("hash", struct local_key, u32, locals, 8 * ENDPOINTS, 0);
PINNED("array", u32, struct origin, slots, SLOTS, 0);
PINNED("percpu_array", u32, u32, cursors, 1, 0);
PINNED("lru_hash", u32, struct origin, origins, 65536, 0);

struct events_table {
	int key;
	u32 leaf;
	int (*ringbuf_output)(void *, u64, u64);
	void *(*ringbuf_reserve)(u64);
	void (*ringbuf_discard)(void *, u64);
	void (*ringbuf_submit)(void *, u64);
	u32 max_entries;
};
__attribute__((section("maps/ringbuf:" PIN "/events"))) struct events_table events = {.max_entries = RING_BYTES};

#define SECOND 1000000000ULL

struct decision {
	u32 rule;
	u32 identity;
	u32 kind;	/* of the peer */
	u8 verdict;
	u8 reason;
};

enum hook {
	POD_EGRESS,	/* the pod's packet comes in */
	DEVICE_EXIT,	/* it leaves the node, or goes to another pod of it */
	POD_INGRESS,	/* into the pod */
};

/* What one run works on: more than the stack of 512 bytes holds. One a CPU; no run of ours interrupts another. */
struct work {
	struct packet packet;
	struct flow_key key;
	struct fragment_key fragment;
	struct window_key what;
	struct flow fresh;
	struct origin origin;
	struct decision decision;
	u64 now;
	u32 epoch;
	u16 dialled_port;
	u8 stamped;	/* the packet is to carry its origin to the exit */
	u8 padding;
	u8 dialled[16];	/* what DNAT changed, or zero */
};
BPF_F_TABLE("percpu_array", u32, struct work, works, 1, 0);

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

#endif
