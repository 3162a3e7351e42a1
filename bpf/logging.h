/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Which verdicts are logged: what NetworkLogging and the settings say, as user space has
 * put it into CONFIG_LOGGING and two maps of its own. Enforcement reads none of them, so a
 * mistake here opens and closes nothing.
 *
 * A verdict that is not logged is cut: it takes no room in the ring and makes no deny
 * window. It is only counted, in COUNT_CUT_ALLOWED or COUNT_CUT_DENIED.
 *
 * CONFIG_LOGGING is one word, so that a packet sees one state of it. 0: all is logged.
 *
 *   bits 0-1   enum logged, of connections that policies allow
 *   bits 2-3   enum logged, of denied packets and audited connections
 *   bit 4      connections that no policy allowed are cut
 *   bit 5      denied packets that would be cut are written with the flag VERDICT_CUT
 *   the rest   is user space's (probe/policy/logging.py)
 *
 * With LOGGED_LISTED, an allowed connection is logged if its rule is in logged_rules, which
 * holds the rule number that the verdict gets: the list of policies without those that do
 * not ask to be logged. A denied packet is logged if logged_subjects has its endpoint. A
 * packet without an endpoint has no subject that could ask for it.
 */
#ifndef KUBEWEIR_LOGGING_H
#define KUBEWEIR_LOGGING_H

enum logged {
	LOGGED_ALL = 0,
	LOGGED_NONE = 1,
	LOGGED_LISTED = 2,
};

#define LOGGED_MASK 3
#define LOGGED_DENIED_SHIFT 2
#define LOGGING_CUTS_DEFAULT 0x10
#define LOGGING_MARKS_DENIED 0x20

/* Whether an allowed connection is logged. If it is, the key's rule becomes that of the policies to be named. */
static __always_inline bool logs_allowed(struct verdict_key *key, u64 logging)
{
	struct logged_rule *named;

	if (!key->rule)
		return !(logging & LOGGING_CUTS_DEFAULT);
	if ((logging & LOGGED_MASK) != LOGGED_LISTED)
		return (logging & LOGGED_MASK) == LOGGED_ALL;
	named = logged_rules.lookup(&key->rule);
	if (!named)
		return 0;
	key->rule = named->rule;
	return 1;
}

/* Whether a denied packet, or an audited connection, is logged, or is written for alerts only. */
static __always_inline bool logs_denied(struct verdict_key *key, u64 logging)
{
	u32 logged = logging >> LOGGED_DENIED_SHIFT & LOGGED_MASK;

	if (logged == LOGGED_ALL || (logged == LOGGED_LISTED && logged_subjects.lookup(&key->endpoint)))
		return 1;
	if (!(logging & LOGGING_MARKS_DENIED))
		return 0;
	key->flags |= VERDICT_CUT;
	return 1;
}

/* Return whether the verdict in key is to be written; count it if not. */
static __always_inline bool is_logged_verdict(struct verdict_key *key)
{
	u64 logging = setting(CONFIG_LOGGING);
	bool allowed = (key->verdict & ~VERDICT_INGRESS) == VERDICT_ALLOW;

	if (!logging || (allowed ? logs_allowed(key, logging) : logs_denied(key, logging)))
		return 1;
	count(allowed ? COUNT_CUT_ALLOWED : COUNT_CUT_DENIED);
	return 0;
}

#endif
