/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * How many verdicts a node logs in a second: CONFIG_LIMIT_ALLOWED and CONFIG_LIMIT_DENIED. 0: any number. The two
 * classes have nothing in common, so allowed connections never take the room of denied ones. Audited connections are
 * among the denied ones.
 *
 * THEORY OF OPERATION
 *
 *   1. A second is one of the monotonic clock. Who writes a verdict takes room from it. A new verdict that finds no
 *      room is cut: counted in COUNT_LIMITED_* and, by endpoint, in limited. A denied flow that is cut has no deny
 *      window, so each of its packets is counted until one finds room.
 *   2. Counts of deny windows are never cut. A window that finds no room when it is to be closed stays open and goes
 *      on counting; user space tries again. So that a scan cannot keep all windows open, closing may take half as much
 *      again, and what it has taken is missing in the next second, so the mean does not exceed the limit.
 *
 * Example: at a limit of 500, a scan takes 500 and the windows that are due 250. The next second has room for 250 new
 * flows and 250 windows, and so on.
 *
 * Two CPUs that look at the same moment may both take the last room, so a second may have as many verdicts too many as
 * there are CPUs. Whether a verdict is cut is decided once, so what is written and what is cut always add up.
 */
#ifndef KUBEWEIR_LIMITS_H
#define KUBEWEIR_LIMITS_H

/* Index into limits. */
#define LIMIT_ALLOWED 0
#define LIMIT_DENIED 1

/* Whether this second has room for a verdict. ahead: how much more than the limit may be taken. */
static __always_inline bool has_room(u32 class, u64 limit, u64 ahead, u64 now)
{
	volatile struct limit *used = limits.lookup(&class);
	u64 second = now / SECOND, given, before, taken;

	if (!used)
		return 1;
	/* In this order: CPUs that begin a second at the same moment write the same, and none gives its room twice. */
	taken = used->taken;
	before = used->second;
	if (second > before) {
		given = (second - before) * limit;
		taken = taken > given ? taken - given : 0;
		/* In this order: a CPU that sees only the first finds no room for a moment, and never too much. */
		used->second = second;
		used->taken = taken;
	}
	return taken < limit + ahead;
}

/* Called for each verdict that is written. */
static __always_inline void take_room(u32 class)
{
	struct limit *used;

	if (!setting(CONFIG_LIMIT_ALLOWED + class))
		return;
	used = limits.lookup(&class);
	if (used)
		__sync_fetch_and_add(&used->taken, 1);
}

static __always_inline void count_limited(const struct verdict_key *key)
{
	struct limited_key limited_key = {.endpoint = key->endpoint, .verdict = key->verdict & ~VERDICT_INGRESS};
	u64 zero = 0, *verdicts;

	count(limited_key.verdict == VERDICT_ALLOW ? COUNT_LIMITED_ALLOWED : COUNT_LIMITED_DENIED);
	/* If there is no room, it is only not known whose the verdict was. */
	verdicts = limited.lookup_or_try_init(&limited_key, &zero);
	if (verdicts)
		__sync_fetch_and_add(verdicts, 1);
}

/* Return whether a new verdict may be written; count it if not. It takes its room when it is written (emit). */
static __always_inline bool is_within_limit(const struct verdict_key *key, u32 class, u64 now)
{
	u64 limit = setting(CONFIG_LIMIT_ALLOWED + class);

	if (!limit || has_room(class, limit, 0, now))
		return 1;
	count_limited(key);
	return 0;
}

/* Whether the count of a deny window may be written. */
static __always_inline bool may_close(u64 now)
{
	u64 limit = setting(CONFIG_LIMIT_DENIED);

	return !limit || has_room(LIMIT_DENIED, limit, (limit + 1) / 2, now);
}

#endif
