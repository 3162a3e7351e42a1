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

/* Places of each table that are reserved for one account. */
#define RESERVED_CONNECTIONS (CONNECTIONS / 2 / ENDPOINTS / ACCOUNTS)
#define RESERVED_DENIED_FLOWS (DENIED_FLOWS / 2 / ENDPOINTS / ACCOUNTS)
#define LENT_DENIED_FLOWS (DENIED_FLOWS / 2)
#define RESERVED_LOOKUPS (LOOKUPS_IN_PERIOD / 2 / ENDPOINTS / ACCOUNTS)
#define LENT_LOOKUPS (LOOKUPS_IN_PERIOD / 2)

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

#endif
