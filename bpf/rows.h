/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Rows into the ring: an allowed connection's at once, a denied packet's at once
 * and then as the count of its window. Windows end without another packet: user
 * space asks for it.
 */
#ifndef KUBEWEIR_ROWS_H
#define KUBEWEIR_ROWS_H

/* True: the row is in the ring. The reader looks by itself: a wake-up is dearer than all the rest of an event. */
static __always_inline bool emit(const struct window_key *what, const struct window *window, u32 packets)
{
	struct verdict *row = events.ringbuf_reserve(sizeof(*row));

	if (!row)
		return 0;
	row->time_ns = window->first_ns;
	__builtin_memcpy(row->source, what->source, 16);
	__builtin_memcpy(row->destination, what->destination, 16);
	__builtin_memcpy(row->dialled, window->dialled, 16);
	row->source_port = what->source_port;
	row->destination_port = what->destination_port;
	row->dialled_port = window->dialled_port;
	row->protocol = what->protocol;
	row->tcp_flags = window->tcp_flags;
	row->endpoint = what->endpoint;
	row->identity = window->identity;
	row->rule = what->rule;
	row->count = packets;
	row->span_ms = (u32)((window->last_ns - window->first_ns) / 1000000);
	row->verdict = what->verdict;
	row->reason = what->reason;
	row->flags = what->flags;
	row->padding = 0;
	events.ringbuf_submit(row, BPF_RB_NO_WAKEUP);
	return 1;
}

static __always_inline void add(struct window *window, u64 now)
{
	/* Not one step with the count: of two packets at the same moment either may be the first. */
	if (!window->count)
		window->first_ns = now;
	window->last_ns = now;
	__sync_fetch_and_add(&window->count, 1);
}

static __always_inline struct window *window_of(struct window_key *what, u32 generation)
{
	return generation ? windows_1.lookup(what) : windows_0.lookup(what);
}

/* 0: made. Not 0: there already, or no room. */
static __always_inline int window_make(struct window_key *what, u32 generation, struct window *fresh)
{
	return generation ? windows_1.insert(what, fresh) : windows_0.insert(what, fresh);
}

/* Counts exactly, without addresses: for more flows than can be told one by one. */
static __always_inline void flood(struct window_key *what, u32 generation, u64 now)
{
	struct window fresh = {};
	struct window *window;

	__builtin_memset(what->source, 0, 16);
	__builtin_memset(what->destination, 0, 16);
	what->source_port = 0;
	what->destination_port = 0;
	what->protocol = 0;
	what->flags = VERDICT_AGGREGATED;
	if (generation)
		window = floods_1.lookup_or_try_init(what, &fresh);
	else
		window = floods_0.lookup_or_try_init(what, &fresh);
	if (!window) {
		count(COUNT_WINDOWS_FULL);
		return;
	}
	count(COUNT_AGGREGATED);
	add(window, now);
}

static __always_inline struct budget *budget_of(u32 endpoint)
{
	struct budget fresh = {};

	return budgets.lookup_or_try_init(&endpoint, &fresh);
}

/* A flood of random ports is all firsts: past its budget an endpoint's are counted, not told. */
static __always_inline bool may_tell(u32 endpoint, u32 generation)
{
	struct budget *budget = budget_of(endpoint);

	if (!budget)
		return 0;
	if (budget->generation != generation) {
		budget->generation = generation;
		budget->told = 0;
	}
	if (budget->told >= setting(CONFIG_FIRSTS))
		return 0;
	__sync_fetch_and_add(&budget->told, 1);
	return 1;
}

/* A row of this packet alone, or the beginning of a window. */
static __always_inline void first_of(struct window *fresh, const struct work *w)
{
	fresh->first_ns = w->now;
	fresh->last_ns = w->now;
	fresh->identity = w->decision.identity;
	fresh->tcp_flags = w->packet.tcp_flags;
	fresh->dialled_port = w->dialled_port;
	__builtin_memcpy(fresh->dialled, w->dialled, 16);
}

static __always_inline void denied(struct work *w)
{
	u32 generation = setting(CONFIG_GENERATION), active = generation & 1;
	struct window_key *what = &w->what;
	struct window fresh = {};
	struct window *window = window_of(what, active);
	bool told = window;

	first_of(&fresh, w);
	/* Told in the window before, which user space is about to close: goes on. */
	if (!window && window_of(what, !active)) {
		window_make(what, active, &fresh);
		told = 1;
	}
	if (!told && may_tell(what->endpoint, generation) && !window_make(what, active, &fresh)) {
		if (emit(what, &fresh, 1))
			return;
		count(COUNT_DEFERRED);
	}
	window = window_of(what, active);
	if (window)
		add(window, w->now);
	else
		flood(what, active, w->now);
}

/* True: the window is closed. False: the ring is full, and the count stays for the next time. */
static __always_inline bool close_flow(struct window_key *what, u32 idle, u64 now)
{
	struct window *window = window_of(what, idle);
	struct window carried = {};
	u32 packets;

	if (!window)
		return 1;
	packets = window->count;
	if (packets && !emit(what, window, packets))
		return 0;
	/* Goes on without being told at once again, until it was silent for a whole window. */
	if (now - window->last_ns < setting(CONFIG_WINDOW_NS)) {
		carried.first_ns = window->last_ns;
		carried.last_ns = window->last_ns;
		carried.identity = window->identity;
		carried.tcp_flags = window->tcp_flags;
		carried.dialled_port = window->dialled_port;
		__builtin_memcpy(carried.dialled, window->dialled, 16);
		window_make(what, !idle, &carried);
	}
	if (idle)
		windows_1.delete(what);
	else
		windows_0.delete(what);
	return 1;
}

static __always_inline bool close_flood(struct window_key *what, u32 idle)
{
	struct window *window = idle ? floods_1.lookup(what) : floods_0.lookup(what);

	if (!window)
		return 1;
	if (!emit(what, window, window->count))
		return 0;
	if (idle)
		floods_1.delete(what);
	else
		floods_0.delete(what);
	return 1;
}

#endif
