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
 *      It tries a few places of each sort, never all of them.
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
 *   - To evict, delete the place: of two CPUs, one is told that it did. It then deletes
 *     the connection that the place named, and inserts the place anew. Whoever fails at a
 *     step has lost the place and takes another.
 *   - Until a new connection names its place, the place looks free to other CPUs, and
 *     one may take it. Therefore, both being written, store_connection() looks whether
 *     the place still names the connection. fence() makes one of the two CPUs see the
 *     other's write.
 *   - Who loses a race PLACE_TRIES times drops its packet. So no pod can make entries
 *     without places by racing with itself.
 *   - A connection with place 0 has none yet, because user space wrote it. Its next
 *     packet on the slow path takes a place for it.
 *
 * Connections expire without a packet, and their places stay taken until somebody looks at
 * them. So user space runs expire_places() over all places in about a minute. Otherwise a
 * pod would be charged for connections that are long over.
 *
 * The table itself is an LRU hash with more room than places (maps.h), so that what user
 * space writes is stored, and a new connection before it takes a place.
 */
#ifndef KUBEWEIR_PLACES_H
#define KUBEWEIR_PLACES_H

/* Places of its own that a new connection tries, to spare one that is in use; and lent ones. */
#define SECOND_CHANCES 4
#define LENT_TRIES 4
/* Places that it loses to other CPUs before it gives up. */
#define PLACE_TRIES 2
#define NO_PLACE 0xffffffffU
/* The compiler must write to memory what it has in registers, and read it again. */
#define barrier() asm volatile("" ::: "memory")

/* How willingly a place is taken: one of these, and in the lower half how many places its borrower has. */
#define NOT_OURS 0ULL
#define IN_USE (1ULL << 32)	     /* an own connection that is in use */
#define BORROWER_IN_USE (2ULL << 32) /* of a pod that borrows more */
#define UNANSWERED (3ULL << 32)	     /* an own connection that is unanswered or closing */
#define BORROWER_UNANSWERED (4ULL << 32)
#define FREE (5ULL << 32)

static __always_inline bool is_in_use(const struct connection *connection, u8 protocol, u64 now)
{
	return (connection->state & CONNECTION_REPLIED) && !(connection->state & CONNECTION_CLOSING) &&
	       !is_expired(connection, protocol, now);
}

/* Return the entry of a place's connection; 0: the connection is gone, or has another place by now. */
static __always_inline struct connection *occupant_of(const struct place *place, u32 number)
{
	struct connection *connection = connections.lookup((struct connection_key *)&place->key);

	return connection && connection->place == number + 1 ? connection : 0;
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
	choice->most = NOT_OURS;
	choice->best = NO_PLACE;
	choice->is_empty = 0;
}

/* How willingly the account takes a place, which is lent or one of its own. */
static __always_inline u64 worth_of(struct work *w, u32 number, bool lent, u32 borrowed)
{
	struct place *place = places.lookup(&number);
	const struct payer *payer = &w->payer;
	struct connection *connection;
	struct budget *budget;
	bool mine, used;

	mine = place && place->payer == payer->endpoint && place->account == payer->account;
	if (lent && !mine && !w->choice.borrows_more)
		return NOT_OURS;
	w->choice.is_empty = !place;
	if (!place)
		return FREE;
	connection = occupant_of(place, number);
	if (!connection || is_expired(connection, place->key.protocol, w->now))
		return FREE;
	used = is_in_use(connection, place->key.protocol, w->now);
	if (mine)
		return used ? IN_USE : UNANSWERED;
	budget = budgets.lookup(&place->payer);
	/* The owner takes its own place back; a pod that is gone needs none. */
	if (!lent || !budget)
		return FREE;
	if (budget->account[place->account & 1].borrowed <= borrowed)
		return NOT_OURS;
	return (used ? BORROWER_IN_USE : BORROWER_UNANSWERED) | budget->account[place->account & 1].borrowed;
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
 * Choose the place to take: w->choice.best, or NO_PLACE. The state of the loop is kept in memory, because the verifier
 * would follow each combination of known values in registers separately.
 */
static __always_inline void choose_place(struct work *w, struct budget *budget)
{
	struct usage *usage = usage_of(budget, &w->payer);
	struct choice *choice = &w->choice;

	start_choice(w, budget);
#pragma clang loop unroll(disable)
	for (int i = 0; i <= SECOND_CHANCES + LENT_TRIES; i++) {
		/* Nearly all lent places are free unless the node is full, so a borrower looks there first. */
		bool lent = i == 0 || i > SECOND_CHANCES;
		u32 number;

		if (lent ? !choice->borrows || (i == 0 && !usage->borrowed)
			 : !choice->own || choice->most >= UNANSWERED)
			continue;
		/* At its limit, only a vacant place would be better. */
		if (lent && !choice->borrows_more && choice->most >= UNANSWERED)
			continue;
		number = lent ? next_lent(w, usage) : choice->first + usage->next++ % choice->own;
		choice->worth = worth_of(w, number, lent, usage->borrowed);
		barrier();
		if (choice->worth > choice->most) {
			choice->most = choice->worth;
			choice->best = number;
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

/* Whether a place is there for the taking: its connection has expired or is gone. */
static __always_inline bool is_vacant(const struct place *place, u32 number, u64 now)
{
	struct connection *connection = occupant_of(place, number);

	return !connection || is_expired(connection, place->key.protocol, now);
}

/* What this CPU has written is visible to others before it reads on. True of x86; elsewhere a place may be lost. */
static __always_inline void fence(u32 *word)
{
	u32 zero = 0;

	/* Hidden from the compiler, which makes of it another operation that kernel 5.10 lacks. */
	asm volatile("" : "+r"(zero));
	__sync_fetch_and_add(word, zero);
}

/* Empty a place and evict its connection; *old is memory for its contents. Return 0 if another CPU was faster. */
static __always_inline bool vacate(struct place *old, u32 number, u64 now)
{
	struct place *place = places.lookup(&number);
	struct connection *connection;
	struct budget *budget;
	bool is_alive;

	if (!place)
		return 1;
	*old = *place;
	if (places.delete(&number))
		return 0;
	/* The map's memory is never returned, and adding 0 changes nothing in it. */
	fence(&place->account);
	budget = budgets.lookup(&old->payer);
	if (budget && is_borrowed(number, budget->slot, old->account & 1))
		__sync_fetch_and_add(&budget->account[old->account & 1].borrowed, -1);
	connection = occupant_of(old, number);
	if (!connection)
		return 1;
	is_alive = !is_expired(connection, old->key.protocol, now);
	/* Nobody misses those of a pod that is gone. */
	if (!connections.delete(&old->key) && is_alive && budget) {
		count(COUNT_EVICTIONS);
		__sync_fetch_and_add(&budget->evicted, 1);
	}
	return 1;
}

/* Take a place for the connection of w->key. Return its number + 1; 0: none, for now. */
static __always_inline u32 take_place(struct work *w)
{
	struct budget *budget = find_payer(w);
	struct place *fresh = &w->place;
	u32 number;

	if (!budget)
		return 0;
	choose_place(w, budget);
	number = w->choice.best;
	if (number == NO_PLACE || (!w->choice.is_empty && !vacate(&w->old_place, number, w->now)))
		return 0;
	fresh->key = w->key;
	fresh->payer = w->payer.endpoint;
	fresh->account = w->payer.account;
	if (places.insert(&number, fresh))
		return 0;
	if (is_borrowed(number, budget->slot, w->payer.account))
		__sync_fetch_and_add(&usage_of(budget, &w->payer)->borrowed, 1);
	return number + 1;
}

static __always_inline bool is_same(const struct connection_key *a, const struct connection_key *b)
{
	const u64 *x = (const u64 *)a, *y = (const u64 *)b;

	return x[0] == y[0] && x[1] == y[1] && x[2] == y[2] && x[3] == y[3] && x[4] == y[4] && x[5] == y[5];
}

/*
 * Store w->fresh under w->key, with a place of its own: the one that it names if it holds that, else another. Return
 * false if there is no room. This is the last step of a program run, when the verifier has little left to follow.
 */
static __always_inline bool store_connection(struct work *w)
{
	struct connection *fresh = &w->fresh;
	struct place *place;
	u32 number;

	w->unstored = 0;
#pragma clang loop unroll(disable)
	for (int i = 0; i < PLACE_TRIES; i++) {
		if (!fresh->place)
			fresh->place = take_place(w);
		barrier();
		if (connections.update(&w->key, fresh))
			return 0;
		fence(&w->fence);
		number = fresh->place - 1;
		place = places.lookup(&number);
		if (place && is_same(&place->key, &w->key))
			return 1;
		fresh->place = 0;
		barrier();
	}
	connections.delete(&w->key);
	return 0;
}

#endif
