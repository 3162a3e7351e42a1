/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Budgets: what one pod may use of the tables that all pods of the node share.
 *
 * THEORY OF OPERATION
 *
 *   1. Who sent the packet pays for what it makes us store. A scan of pod A against pod
 *      B makes entries of B, but they are paid from A's budget, so B has as much room
 *      as before.
 *   2. A pod has two accounts. ACCOUNT_OWN pays for what its own packets store, at its
 *      own interface or at another pod's. ACCOUNT_OUTSIDE pays for packets that reach
 *      it from other nodes, from the world and from its own node. So a flood from
 *      outside takes no room from the pod's own connections.
 *   3. Half of each table is reserved in equal shares, one for each account of each pod
 *      that the node can have. The rest is lent to who needs more, up to a limit for
 *      each account. The shares add up to the table, so a pod within its share never
 *      finds the table full, whatever all others do.
 *   4. User space gives each pod a number from 0 to ENDPOINTS - 1 (its slot) before the
 *      pod is enforced. A pod that has none yet can only borrow.
 *
 * Counts are changed by atomic additions only, without locks. Two CPUs that read a
 * count at the same moment may both take the last place of a limit, so a limit can be
 * exceeded by the number of CPUs; a table never can.
 */
#ifndef KUBEWEIR_BUDGETS_H
#define KUBEWEIR_BUDGETS_H

/* Of the size of a table: what is reserved for one account, and what is lent. */
#define RESERVED_OF(size) ((size) / 2 / ENDPOINTS / ACCOUNTS)
#define LENT_OF(size) ((size) / 2)
#define RESERVED_CONNECTIONS RESERVED_OF(CONNECTIONS)

/* Who sent the packet, as far as the hook knows. */
enum sender {
	SENDER_SELF,	/* the pod of w->key.endpoint: this is a hook of its egress */
	SENDER_JUDGED,	/* a local pod, whose hook has judged the packet: nothing hides its address */
	SENDER_ORIGIN,	/* the pod of w->origin */
	SENDER_OUTSIDE, /* no pod of this node */
};

/* Find the account that pays for the packet: w->payer. Return its budget; 0: user space has not made any yet. */
static __always_inline struct budget *find_payer(struct work *w)
{
	struct payer *payer = &w->payer;
	struct budget *budget;

	payer->endpoint = w->key.endpoint;
	payer->account = ACCOUNT_OWN;
	if (w->sender == SENDER_ORIGIN) {
		payer->endpoint = w->origin.endpoint;
	} else if (w->sender != SENDER_SELF) {
		struct endpoint *endpoint = 0;

		if (w->sender == SENDER_JUDGED) {
			endpoint = endpoint_at(w, w->from);
			/* A bridge that hands a packet on to the routes takes its own index for the sender's. */
			if (!endpoint)
				endpoint = endpoint_at(w, local_ifindex(w, w->packet.source));
		}
		if (endpoint)
			payer->endpoint = endpoint->number;
		else
			payer->account = ACCOUNT_OUTSIDE;
	}
	budget = budgets.lookup(&payer->endpoint);
	if (budget)
		return budget;
	/* Packets without a pod share one budget. */
	payer->endpoint = 0;
	return budgets.lookup(&payer->endpoint);
}

static __always_inline struct usage *usage_of(struct budget *budget, const struct payer *payer)
{
	return &budget->account[payer->account & 1];
}

/* How many an account has taken in the period with this number; begins at 0 in each. */
static __always_inline u32 taken_in(struct taken *taken, u32 account, u32 period)
{
	if (taken->period != period) {
		taken->period = period;
		taken->by_account[ACCOUNT_OWN] = 0;
		taken->by_account[ACCOUNT_OUTSIDE] = 0;
	}
	return taken->by_account[account & 1];
}

/*
 * Whether the account may take one more in this period; takes it from its reserve or from what is lent. It may take no
 * more than limit, and all accounts together no more than size.
 */
static __always_inline bool may_take(struct budget *budget, u32 account, const enum counted what, u32 period, u64 limit,
				     const u32 size)
{
	u32 made = taken_in(&budget->taken[what], account, period), lent = LENT;
	struct budget *pool;

	if (made >= limit)
		return 0;
	if (made >= RESERVED_OF(size) || budget->slot >= ENDPOINTS) {
		pool = budgets.lookup(&lent);
		if (!pool || taken_in(&pool->taken[what], ACCOUNT_OWN, period) >= LENT_OF(size))
			return 0;
		__sync_fetch_and_add(&pool->taken[what].by_account[ACCOUNT_OWN], 1);
	}
	__sync_fetch_and_add(&budget->taken[what].by_account[account & 1], 1);
	return 1;
}

#endif
