/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Verdicts into the ring buffer. An allowed connection is one verdict, emitted at
 * once. Denied packets can arrive by the million, so they are counted in windows:
 *
 * THEORY OF OPERATION: deny windows
 *
 *   1. The first denied packet of a flow is emitted at once, with count 1, and opens
 *      a deny window for its verdict_key in the active map.
 *   2. Further packets of that flow only increment the window's count.
 *   3. Every WEIR_DENY_WINDOW seconds user space increments CONFIG_DENY_WINDOW. The
 *      other map becomes active, and once no program can still count in the idle one,
 *      user space runs close_windows on it: each window with a count is emitted and
 *      deleted by one program run.
 *   4. A flow that was active within the last window moves to the active map with
 *      count 0, so its next packet is counted and not emitted as a first one.
 *
 * With CONFIG_ANY_SOURCE_PORT, a flow is all that goes from one address to another and a port of it, so that a client
 * that tries again and again is one flow. Its verdicts have the source port of the packet that opened the window.
 *
 * Example: 20 packets in window 6 give one verdict with count 1 at once and one with
 * count 19 when window 6 closes; 5 packets in window 7 give one verdict with count 5.
 *
 * A port scan consists of first packets only. Who sends it may therefore have
 * CONFIG_POD_DENIED_FLOWS windows at a time, and no more than its share if others have
 * borrowed the rest (budgets.h); past that, packets are counted in a flood window
 * without addresses. No denied packet goes uncounted: what no window can take is in
 * COUNT_DENY_WINDOWS_FULL.
 *
 * THE TALLY OF DECISIONS. A decision is an allowed or audited connection, or a denied
 * packet. It is counted in COUNT_DECIDED where it is made, and then in one other place:
 *
 *   decided = written + cut + lost + in open deny windows
 *
 * Each term is a counter, or the windows themselves, and none is computed from others, so
 * a decision that no place has is missing from the sum (probe/kernel/decisions.py).
 *
 * Emitting and deleting inside the kernel keeps a single numbering of verdicts (the
 * ring position) and counts nothing twice, whichever process is killed at any point.
 */
#ifndef KUBEWEIR_VERDICTS_H
#define KUBEWEIR_VERDICTS_H

/*
 * Return whether the verdict is in the ring, where it takes room from its class (limits.h). The reader polls, because
 * waking it up would cost more than everything else that is done for an event. logged: where to keep a copy (ends.h),
 * or 0.
 */
static __always_inline bool emit(const struct verdict_key *key, const struct deny_window *window, u32 packets,
				 u32 class, struct logged_verdict *logged)
{
#ifdef ENDS
	u64 before = logged ? producer_position() : 0;
#endif
	struct verdict *verdict = events.ringbuf_reserve(sizeof(*verdict));

	if (!verdict)
		return 0;
	verdict->time_ns = window->first_ns;
	__builtin_memcpy(verdict->source, key->source, 16);
	__builtin_memcpy(verdict->destination, key->destination, 16);
	__builtin_memcpy(verdict->dialled, window->dialled, 16);
	verdict->source_port = key->source_port ? key->source_port : window->source_port;
	verdict->destination_port = key->destination_port;
	verdict->dialled_port = window->dialled_port;
	verdict->protocol = key->protocol;
	verdict->tcp_flags = window->tcp_flags;
	verdict->endpoint = key->endpoint;
	verdict->identity = window->identity;
	verdict->rule = key->rule;
	verdict->count = packets;
	verdict->span_ms = (u32)((window->last_ns - window->first_ns) / 1000000);
	verdict->verdict = key->verdict;
	verdict->reason = key->reason;
	verdict->flags = key->flags;
	verdict->padding = 0;
#ifdef ENDS
	if (logged) {
		logged->verdict = *verdict;
		logged->ring = setting(CONFIG_RING_ID);
		logged->number = number_of_entry(verdict, before, &logged->number);
	}
#endif
	events.ringbuf_submit(verdict, BPF_RB_NO_WAKEUP);
	/* Also run by user space (close_windows), and a lost count would be a lost verdict in the tally. */
	count_undisturbed(COUNT_RING_VERDICTS, 1);
	count_undisturbed(COUNT_WRITTEN, packets);
	take_room(class);
	return 1;
}

static __always_inline void count_packet(struct deny_window *window, u64 now)
{
	/* Not atomic with the count: of two packets at the same moment, either may be called the first. */
	if (!window->count)
		window->first_ns = now;
	window->last_ns = now;
	__sync_fetch_and_add(&window->count, 1);
}

static __always_inline struct deny_window *window_of(struct verdict_key *key, u32 parity)
{
	return parity ? deny_windows_1.lookup(key) : deny_windows_0.lookup(key);
}

/* Return 0 if the window was created, not 0 if it exists already or the map is full. */
static __always_inline int make_window(struct verdict_key *key, u32 parity, struct deny_window *fresh)
{
	return parity ? deny_windows_1.insert(key, fresh) : deny_windows_0.insert(key, fresh);
}

/* Count a packet exactly, but without addresses: there are more flows than can be logged one by one. */
static __always_inline void count_flood(struct verdict_key *key, u32 parity, u64 now)
{
	struct deny_window fresh = {};
	struct deny_window *window;

	__builtin_memset(key->source, 0, 16);
	__builtin_memset(key->destination, 0, 16);
	key->source_port = 0;
	key->destination_port = 0;
	key->protocol = 0;
	key->flags = VERDICT_AGGREGATED | (key->flags & VERDICT_CUT);
	if (parity)
		window = floods_1.lookup_or_try_init(key, &fresh);
	else
		window = floods_0.lookup_or_try_init(key, &fresh);
	if (!window) {
		count(COUNT_DENY_WINDOWS_FULL);
		return;
	}
	count(COUNT_AGGREGATED);
	count_packet(window, now);
}

/* Whether the account may make one more deny window in this window. */
static __always_inline bool may_make_window(struct budget *budget, u32 account, u32 window_number)
{
	return may_take(budget, account, COUNTED_DENIED_FLOWS, window_number, setting(CONFIG_POD_DENIED_FLOWS),
			DENIED_FLOWS);
}

/* A window that holds nothing but this packet: for a verdict of its own, or to begin counting. */
static __always_inline void start_window(struct deny_window *fresh, const struct work *w)
{
	fresh->first_ns = w->now;
	fresh->last_ns = w->now;
	fresh->identity = w->decision.identity;
	fresh->tcp_flags = w->packet.tcp_flags;
	fresh->dialled_port = w->dialled_port;
	fresh->source_port = w->source_port;
	__builtin_memcpy(fresh->dialled, w->dialled, 16);
}

/* Begin a window for the flow, and emit its verdict unless it continues. Return 1 if there is nothing left to count. */
static __always_inline bool log_new_flow(struct work *w, u32 active)
{
	struct verdict_key *key = &w->verdict_key;
	struct deny_window *fresh = &w->window;
	/* Logged in the previous window, which user space has not closed yet: the flow continues. */
	bool is_logged = window_of(key, !active);

	__builtin_memset(fresh, 0, sizeof(*fresh));
	start_window(fresh, w);
	fresh->payer = w->payer.endpoint;
	fresh->account = w->payer.account;
	if (make_window(key, active, fresh) || is_logged)
		return 0;
	if (emit(key, fresh, 1, LIMIT_DENIED, 0))
		return 1;
	count(COUNT_DEFERRED);
	return 0;
}

static __always_inline void log_denied(struct work *w)
{
	u32 window_number, active;
	struct verdict_key *key = &w->verdict_key;
	struct deny_window *window;
	struct budget *budget;

	count(COUNT_DECIDED);
	if (!is_logged_verdict(key))
		return;
	w->source_port = key->source_port;
	if (setting(CONFIG_ANY_SOURCE_PORT))
		key->source_port = 0;
	window_number = setting(CONFIG_DENY_WINDOW);
	active = window_number & 1;
	window = window_of(key, active);
	if (!window) {
		/* A flow that was logged in the previous window continues: it writes nothing now. */
		if (setting(CONFIG_LIMIT_DENIED) && !window_of(key, !active) &&
		    !is_within_limit(key, LIMIT_DENIED, w->now))
			return;
		budget = find_payer(w);
		if (budget && may_make_window(budget, w->payer.account, window_number)) {
			if (log_new_flow(w, active))
				return;
			window = window_of(key, active);
		}
	}
	if (window)
		count_packet(window, w->now);
	else
		count_flood(key, active, w->now);
}

/* Whether a flow that was active in the window that is closed may have one in the next. */
static __always_inline bool may_carry(struct verdict_key *key, const struct deny_window *window, u32 active)
{
	u32 payer = window->payer;
	struct budget *budget = budgets.lookup(&payer);

	/* If it has a window there, its next packet has come already. */
	return budget && !window_of(key, active) &&
	       may_make_window(budget, window->account, setting(CONFIG_DENY_WINDOW));
}

/* Return 1 if the window is closed. 0: the ring or the limit is full, and the window keeps its count for another try. */
static __always_inline bool close_window(struct verdict_key *key, u32 idle, u64 now)
{
	struct deny_window *window = window_of(key, idle);
	struct deny_window carried = {};
	u32 packets;

	if (!window)
		return 1;
	packets = window->count;
	if (packets && !(may_close(now) && emit(key, window, packets, LIMIT_DENIED, 0)))
		return 0;
	/* The flow is still active: its next packet is not a first one. It is again after a whole silent window. */
	if (now - window->last_ns < setting(CONFIG_WINDOW_NS) && may_carry(key, window, !idle)) {
		carried.first_ns = window->last_ns;
		carried.last_ns = window->last_ns;
		carried.identity = window->identity;
		carried.tcp_flags = window->tcp_flags;
		carried.payer = window->payer;
		carried.account = window->account;
		carried.dialled_port = window->dialled_port;
		carried.source_port = window->source_port;
		__builtin_memcpy(carried.dialled, window->dialled, 16);
		make_window(key, !idle, &carried);
	}
	if (idle)
		deny_windows_1.delete(key);
	else
		deny_windows_0.delete(key);
	return 1;
}

static __always_inline bool close_flood(struct verdict_key *key, u32 idle, u64 now)
{
	struct deny_window *window = idle ? floods_1.lookup(key) : floods_0.lookup(key);

	if (!window)
		return 1;
	if (!(may_close(now) && emit(key, window, window->count, LIMIT_DENIED, 0)))
		return 0;
	if (idle)
		floods_1.delete(key);
	else
		floods_0.delete(key);
	return 1;
}

#endif
