/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Places: each connection holds one of CONNECTIONS places, which bounds the table and
 * says who pays (budgets.h).
 *
 * THEORY OF OPERATION
 *
 *   1. Places are numbered. The first ones are reserved: an account of a pod owns
 *      RESERVED_CONNECTIONS of them in sequence. From CONFIG_LENT_FROM on, behind the
 *      last pod that the node has now, they are lent.
 *   2. A new connection of pod A takes, in this order:
 *        - a free place: of A's own if A has not borrowed, else a lent one. A place is
 *          free if nothing is in it, or a connection that has expired or is gone;
 *        - a place of A's own that another pod had borrowed before A came to the node;
 *        - a lent place of a pod that borrows more than A, unanswered connections first;
 *        - the next place of A's own, whatever is in it.
 *      It tries a few places of each sort, never all of them. Nearly always the first
 *      one is empty, so it is tried by inserting there, before anything is compared.
 *   3. So a connection in its own pod's place is evicted by that account only, and a
 *      borrowed one only by the pod whose place it is, or by one that borrows less.
 *
 * Example: the node can have 256 pods and 65,536 connections, so an account has 64
 * places of its own. Pod A scans 10,000 ports: its entries fill its 64 places and then
 * lent ones, up to CONFIG_POD_CONNECTIONS. When all are lent, A evicts its own. Pod B,
 * with 70 connections, borrows 6. For each it evicts one of A's, because A borrows more.
 *
 * CPUs race for places without locks. A connection and its place name each other:
 * places[7] has the connection's key, and the connection has place 7.
 *
 *   - To evict, claim the place in the map emptying: only one of two CPUs succeeds.
 *     No other CPU deletes a claimed place, so a CPU deletes only what it has chosen to evict,
 *     never what another one has entered there meanwhile. Then it deletes the connection
 *     that the place named.
 *   - To enter, store the connection with the place's number, then insert the place: only one
 *     of two CPUs succeeds. A CPU that fails at a step takes another place. So a
 *     place is never seen before its connection is there, and looks free only if it is.
 *   - Who loses a race PLACE_TRIES times drops its packet. So no pod can make entries
 *     without places by racing with itself.
 *   - What user space stores gets its place by the same steps (add_connection in policy.c).
 *   - A connection with place 0 has none yet, because it was carried over from another
 *     generation of maps before its pod had a budget. Its next packet on the slow path takes
 *     a place for it.
 *
 * Connections expire without a packet, and their places stay taken until somebody looks at
 * them. So user space runs expire_places() over all places in about a minute. Otherwise a
 * pod would be charged for connections that are long over.
 *
 * The table itself is an LRU hash with more room than places (maps.h), so that a connection
 * is stored before it takes a place, and one without a place evicts no other.
 */
#ifndef KUBEWEIR_PLACES_H
#define KUBEWEIR_PLACES_H

/* Places of its own that a new connection tries, to spare one that is in use; and lent ones. */
#define SECOND_CHANCES 4
#define LENT_TRIES 4
/* Places that it loses to other CPUs before it gives up. */
#define PLACE_TRIES 2
#define NO_PLACE 0xffffffffU
/* A claim that is older was left behind: a CPU holds one for less than a microsecond, unless user space is interrupted. */
#define CLAIM_TIMEOUT (60 * SECOND)
/*
 * The compiler must write to memory what it has in registers, and read it again. The verifier does not know what is in
 * memory, so it follows what comes next once, and not once for each value that a register may have.
 */
#define barrier() asm volatile("" ::: "memory")

/* How willingly a place is taken: one of these, and in the lower half how many places its borrower has. */
#define NOT_OURS 0ULL
#define IN_USE (1ULL << 32)	     /* an own connection that is in use */
#define BORROWER_IN_USE (2ULL << 32) /* of a pod that borrows more */
#define UNANSWERED (3ULL << 32)	     /* an own connection that is unanswered or closing */
#define BORROWER_UNANSWERED (4ULL << 32)
#define FREE (5ULL << 32)

/* Return the entry of a place's connection; 0: the connection is gone, or has another place by now. */
static __always_inline struct connection *occupant_of(const struct place *place, u32 number)
{
	struct connection *connection = connections.lookup((struct connection_key *)&place->key);

	return connection && connection->place == number + 1 ? connection : 0;
}

/* What is in a place. */
enum occupancy {
	VACANT, /* nothing, or a connection that has expired or is gone */
	UNUSED, /* a connection that is unanswered or closing */
	USED,
};

static __always_inline u8 occupancy_of(const struct place *place, u32 number, u64 now)
{
	struct connection *connection = occupant_of(place, number);

	if (!connection || is_expired(connection, place->key.protocol, now))
		return VACANT;
	return (connection->state & (CONNECTION_REPLIED | CONNECTION_CLOSING)) == CONNECTION_REPLIED ? USED : UNUSED;
}

static __always_inline void start_choice(struct work *w, struct budget *budget)
{
	u32 limit = setting(CONFIG_POD_CONNECTIONS), slot = budget->slot;
	struct choice *choice = &w->choice;

	choice->own = limit < RESERVED_CONNECTIONS ? limit : RESERVED_CONNECTIONS;
	choice->first = (slot * ACCOUNTS + (w->payer.account & 1)) * RESERVED_CONNECTIONS;
	if (slot >= ENDPOINTS)
		choice->own = 0;
	choice->lent_from = setting(CONFIG_LENT_FROM);
	choice->borrows = choice->lent_from < CONNECTIONS && limit > choice->own;
	choice->borrows_more = choice->own + usage_of(budget, &w->payer)->borrowed < limit;
	choice->best = NO_PLACE;
	barrier();
}

/* How willingly the account takes a place, which is lent or one of its own. w->place is then what is in it. */
static __always_inline u64 worth_of(struct work *w, u32 number, bool lent, u32 borrowed)
{
	struct place *found = places.lookup(&number), *place = &w->place;
	const struct payer *payer = &w->payer;
	struct choice *choice = &w->choice;
	struct budget *budget;
	u32 account;

	if (!found && lent && !choice->borrows_more)
		return NOT_OURS;
	choice->is_empty = !found;
	if (!found)
		return FREE;
	*place = *found;
	choice->is_mine = place->payer == payer->endpoint && place->account == payer->account;
	choice->occupancy = occupancy_of(place, number, w->now);
	barrier();
	if (lent && !choice->is_mine && !choice->borrows_more)
		return NOT_OURS;
	if (choice->occupancy == VACANT)
		return FREE;
	if (choice->is_mine)
		return choice->occupancy == USED ? IN_USE : UNANSWERED;
	budget = budgets.lookup(&place->payer);
	/* The owner takes its own place back; a pod that is gone needs none. */
	if (!lent || !budget)
		return FREE;
	account = place->account & 1;
	if (budget->account[account].borrowed <= borrowed)
		return NOT_OURS;
	return (choice->occupancy == USED ? BORROWER_IN_USE : BORROWER_UNANSWERED) | budget->account[account].borrowed;
}

/*
 * Return the next lent place to look at. Each account goes through them in a sequence that looks random. At its limit it
 * goes through those that it has taken last, which are its own: so an entry lives as long as the limit allows.
 */
static __always_inline u32 next_lent(struct work *w, struct usage *usage)
{
	u32 turn, mixed;

	if (w->choice.borrows_more)
		turn = usage->turn++;
	else
		turn = usage->turn - 1 - usage->next++ % (usage->borrowed ?: 1);
	mixed = (turn + (w->payer.endpoint * ACCOUNTS + w->payer.account) * 0xc2b2ae35) * 0x9e3779b1;
	mixed = (mixed ^ mixed >> 15) * 0x85ebca6b;
	return w->choice.lent_from + (mixed ^ mixed >> 13) % (CONNECTIONS - w->choice.lent_from);
}

/*
 * Find w->choice.likely, the place to try first: nearly all lent places are free unless the node is full. At the
 * account's limit there is none.
 */
static __always_inline void find_likely(struct work *w, struct budget *budget)
{
	struct usage *usage = usage_of(budget, &w->payer);
	struct choice *choice = &w->choice;

	start_choice(w, budget);
	choice->likely = NO_PLACE;
	if (choice->own && !usage->borrowed)
		choice->likely = choice->first + usage->next++ % choice->own;
	else if (choice->borrows && choice->borrows_more)
		choice->likely = next_lent(w, usage);
}

/*
 * Choose the place to take: w->choice.best, or NO_PLACE. w->old_place is what is in it. The state of the loop is kept in
 * memory, because the verifier would follow each combination of known values in registers separately.
 */
static __always_inline void choose_place(struct work *w, struct budget *budget)
{
	struct usage *usage = usage_of(budget, &w->payer);
	struct choice *choice = &w->choice;

	start_choice(w, budget);
	choice->most = NOT_OURS;
	choice->is_empty = 0;
#pragma clang loop unroll(disable)
	for (int i = 0; i <= SECOND_CHANCES + LENT_TRIES; i++) {
		/* At its limit, a borrower finds its oldest there. */
		bool lent = i == 0 || i > SECOND_CHANCES;
		u32 number;

		if (lent ? !choice->borrows || (i == 0 && !usage->borrowed)
			 : !choice->own || choice->most >= UNANSWERED)
			continue;
		/* At its limit, only a vacant place would be better. */
		if (lent && !choice->borrows_more && choice->most >= UNANSWERED)
			continue;
		if (!lent)
			number = choice->first + usage->next++ % choice->own;
		else
			number = i || choice->likely == NO_PLACE ? next_lent(w, usage) : choice->likely;
		choice->worth = worth_of(w, number, lent, usage->borrowed);
		barrier();
		if (choice->worth > choice->most) {
			choice->most = choice->worth;
			choice->best = number;
			w->old_place = w->place;
		}
		barrier();
		if (choice->most == FREE)
			break;
	}
}

/* Whether a place is none of those that belong to the account. */
static __always_inline bool is_borrowed(u32 number, u32 slot, u32 account)
{
	return slot >= ENDPOINTS || number / (RESERVED_CONNECTIONS ?: 1) != slot * ACCOUNTS + account;
}

/* What this CPU has written is visible to others before it reads on. True of x86; elsewhere a place may be lost. */
static __always_inline void fence(u32 *word)
{
	u32 zero = 0;

	/* Hidden from the compiler, which makes of it another operation that kernel 5.10 lacks. */
	asm volatile("" : "+r"(zero));
	__sync_fetch_and_add(word, zero);
}

/* Delete the origin under a hash if it is the endpoint's: hashes collide, and another pod may have had the address. */
static __always_inline void delete_origin(u32 hash, u32 endpoint)
{
	struct origin *origin = origins.lookup(&hash);

	if (origin && origin->endpoint == endpoint)
		origins.delete(&hash);
}

static __always_inline bool is_same(const struct connection_key *a, const struct connection_key *b)
{
	const u64 *x = (const u64 *)a, *y = (const u64 *)b;

	return x[0] == y[0] && x[1] == y[1] && x[2] == y[2] && x[3] == y[3] && x[4] == y[4] && x[5] == y[5];
}

/* Claim a place to empty it. Return 0 if another CPU has. */
static __always_inline bool claim_place(u32 number, u64 now)
{
	u64 *since;

	if (!emptying.insert(&number, &now))
		return 1;
	since = emptying.lookup(&number);
	/* Newer kernels give up waiting for a lock of the map after 250 ms (rqspinlock), so a claim may not be released. */
	if (since && now > *since && now - *since > CLAIM_TIMEOUT)
		emptying.delete(&number);
	return 0;
}

#ifdef ENDS
/* Claim a place of w->key's connection, and return its traffic. 0: another CPU has claimed it, or it is not its place. */
static __always_inline struct traffic *claim_traffic(struct work *w, u32 number)
{
	struct place *place;

	if (!claim_place(number, w->now))
		return 0;
	place = places.lookup(&number);
	if (place && is_same(&place->key, &w->key))
		return traffic.lookup(&number);
	emptying.delete(&number);
	return 0;
}

/*
 * Report the connection that has w->fresh.place until another one gets it under the same key, w->key. Return 0 if it
 * cannot have the place, because that is claimed or is another connection's by now.
 */
static __always_inline bool release_traffic(struct work *w)
{
	struct connection *former = connections.lookup(&w->key);
	bool was_alive = former && !is_expired(former, w->key.protocol, w->now);
	u64 until = former ? former->last_ns : w->now;
	u32 number = w->fresh.place - 1;
	struct traffic *counted = claim_traffic(w, number);

	if (!counted)
		return 0;
	/* A packet has ended it. */
	end_traffic(counted, was_alive ? END_EVICTED : END_TIMEOUT, until);
	emptying.delete(&number);
	return 1;
}

/* The connection of w->key has got a place: from now on it is counted there. */
static __always_inline void own_traffic(struct work *w, u32 number)
{
	struct traffic *counted = claim_traffic(w, number);

	if (counted && !counted->owner) {
		if (w->logged.is_waiting)
			keep_verdict(counted, &w->logged);
		*(volatile u64 *)&counted->owner = owner_of(&w->key);
	} else if (w->logged.is_waiting) {
		count_undisturbed(COUNT_ENDS_UNCERTAIN, 1);
	}
	if (counted)
		emptying.delete(&number);
	w->logged.is_waiting = 0;
}

/* Report the connection of a place that is being emptied, and is claimed. */
static __always_inline void end_occupant(const struct place *old, u32 number, u64 now)
{
	u32 pod = old->key.endpoint;
	struct connection *connection = occupant_of(old, number);
	struct traffic *counted = traffic.lookup(&number);
	u8 how = END_EVICTED;

	if (!counted)
		return;
	if (!budgets.lookup(&pod))
		how = END_POD_GONE;
	else if (connection && is_denied_by_policy(connection->verdict, connection->reason))
		how = END_REVOKED;
	else if (connection && is_expired(connection, old->key.protocol, now))
		how = END_TIMEOUT;
	end_traffic(counted, how, connection ? connection->last_ns : now);
}
#endif

/*
 * Empty a place and evict its connection, which was_alive. *old is what was in it when it was chosen. Return 0 if
 * another CPU was faster.
 */
static __always_inline bool vacate(struct place *old, u32 number, u64 now, bool was_alive)
{
	struct connection *connection;
	struct budget *budget;
	struct place *place;
	bool was_deleted;
	u32 hash;

	if (!claim_place(number, now))
		return 0;
	place = places.lookup(&number);
#ifdef ENDS
	if (place && is_same(&place->key, &old->key))
		end_occupant(old, number, now);
#endif
	was_deleted = place && is_same(&place->key, &old->key) && place->payer == old->payer &&
		      place->account == old->account && !places.delete(&number);
	emptying.delete(&number);
	if (!place)
		return 1;
	if (!was_deleted)
		return 0;
	/* holds_place() has the other fence. The map's memory is never returned, and adding 0 changes nothing in it. */
	fence(&place->account);
	budget = budgets.lookup(&old->payer);
	if (budget && is_borrowed(number, budget->slot, old->account & 1))
		__sync_fetch_and_add(&budget->account[old->account & 1].borrowed, -1);
	connection = occupant_of(old, number);
	if (!connection)
		return 1;
	hash = connection->hash;
	if (connections.delete(&old->key))
		return 1;
	delete_origin(hash, old->key.endpoint);
	/* Nobody misses those of a pod that is gone. Also run by user space (add_connection). */
	if (was_alive && budget) {
		count_undisturbed(COUNT_EVICTIONS, 1);
		__sync_fetch_and_add(&budget->evicted, 1);
	}
	return 1;
}

/* Choose a place and empty it. Return its number, or NO_PLACE: there is none, or another CPU was faster. */
static __always_inline u32 emptied_place(struct work *w, struct budget *budget)
{
	struct choice *choice = &w->choice;
	bool was_alive;

	choose_place(w, budget);
	choice->likely = NO_PLACE;
	barrier();
	/* A free place is the last one that was looked at. Its owner may take it from a connection that is in use. */
	was_alive = choice->most != FREE || choice->occupancy != VACANT;
	if (choice->best != NO_PLACE && !choice->is_empty && !vacate(&w->old_place, choice->best, w->now, was_alive))
		return NO_PLACE;
	return choice->best;
}

/* Enter the connection of w->key in a place that is empty. Return 0 if another CPU was faster, or if it is not empty. */
static __always_inline bool enter_place(struct work *w, struct budget *budget, u32 number)
{
	struct place *fresh = &w->place;

	fresh->key = w->key;
	fresh->payer = w->payer.endpoint;
	fresh->account = w->payer.account;
	if (places.insert(&number, fresh))
		return 0;
	if (is_borrowed(number, budget->slot, w->payer.account))
		__sync_fetch_and_add(&usage_of(budget, &w->payer)->borrowed, 1);
	return 1;
}

/* Whether w->key's connection, which has just been stored with the place that an earlier one had, still holds that. */
static __always_inline bool holds_place(struct work *w)
{
	u32 number = w->fresh.place - 1;
	struct place *place;

	/* Another CPU deletes the place, then looks for its connection: one of the two sees what the other has done. */
	fence(&w->fence);
	place = places.lookup(&number);
	return place && is_same(&place->key, &w->key);
}

/*
 * Store w->fresh under w->key, with a place of its own: the one that it names if it holds that, else another. Return
 * false if there is no room. This is the last step of a program run, when the verifier has little left to follow.
 */
static __always_inline bool store_connection(struct work *w)
{
	struct connection *fresh = &w->fresh;
	struct budget *budget;
	u32 number;

	w->unstored = 0;
#ifdef ENDS
	if (fresh->place && !release_traffic(w))
		fresh->place = 0;
#endif
	if (fresh->place) {
		if (connections.update(&w->key, fresh))
			return 0;
		if (holds_place(w)) {
#ifdef ENDS
			own_traffic(w, fresh->place - 1);
#endif
			return 1;
		}
	}
	budget = find_payer(w);
	if (!budget)
		return 0;
	find_likely(w, budget);
#pragma clang loop unroll(disable)
	for (int i = 0; i <= PLACE_TRIES; i++) {
		barrier();
		number = i ? emptied_place(w, budget) : w->choice.likely;
		if (number == NO_PLACE)
			continue;
		fresh->place = number + 1;
		if (connections.update(&w->key, fresh))
			break;
		if (enter_place(w, budget, number)) {
#ifdef ENDS
			own_traffic(w, number);
#endif
			return 1;
		}
	}
	connections.delete(&w->key);
	delete_origin(fresh->hash, w->key.endpoint);
	return 0;
}

#endif
