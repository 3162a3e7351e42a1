/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Connection ends: what a logged, allowed connection carried, and how it ended. Compiled
 * in with ENDS only (WEIR_ENDS); without it, the programs are those of a source without it.
 *
 * THEORY OF OPERATION
 *
 *   1. Each place (places.h) has a struct traffic. The hooks of a pod add each packet that
 *      passes to that of its connection's place: its length as the interface counts it.
 *      The fast path does so too (recent.h).
 *   2. When the verdict of an allowed connection is written to the ring, a copy of it, with
 *      its number, goes to the traffic. Of a connection to a Service that is the one of
 *      the dialled address, which all of its packets meet, although the exit judges it. If
 *      it is not the first one, the packet that opens it was counted for the one before,
 *      at the pod's hook. The packet's slot (stamps.h) says as what, and that is moved.
 *   3. A report is a struct connection_end in the ring connection_ends: the copy of the
 *      verdict, what was counted since the last report, and how the connection ended. What
 *      is reported is subtracted, so the reports of a connection add up to what it carried,
 *      whatever comes late. Each has a number, part.
 *   4. A connection is reported when its place is emptied, or taken by the next connection
 *      under its key (places.h). User space has all places looked at in turn (sweep.h): a
 *      connection that FIN or RST has ended and that is quiet is reported then, and so is
 *      one that lives on for an hour.
 *
 * Example: 10.244.1.7 downloads a file. Six packets go out and nine come in, FIN both ways.
 * Ten seconds later it is reported as closed, with part 0. The last ACK was lost, and after
 * a minute a FIN is sent again: when the place is emptied, part 1 says that one packet came.
 *
 * WHOSE IT IS
 *
 * CPUs race for places (places.h), so a place may get another connection while a packet of the former one is under way.
 * A report must never mix the two:
 *
 *   - What is not counted by addition is only written by who has claimed the place: the verdict, the owner (a hash of the
 *     connection's key), and all that is settled. Under the claim no CPU empties the place, and it is looked up once more
 *     whose it is. If that cannot be done, the report is given up (COUNT_ENDS_UNCERTAIN).
 *   - A packet is counted if the owner is its connection. Counting takes no lock and one atomic addition, because these
 *     are most of what it costs. So between that look and the addition the place may get another connection. Therefore
 *     each addition also adds a tag, the last byte of the serial. Whoever settles the sum compares: n packets must have
 *     n times the tag of the connection that has the place now. If not, a packet of another one is among them, and what
 *     was counted is not reported (COUNT_ENDS_UNCERTAIN); the number part shows that something is missing. Only
 *     late packets whose distances, in connections of one place, add up to a multiple of 256 would go unnoticed: one
 *     that is late by 256, two by 128, four by 64.
 *
 * Example: of 10.244.1.7's connection with serial 41, a packet has just been compared when another CPU evicts it. The
 * place's next connection has serial 42 and carries 5 packets. The sum has 6 packets and the tags 5 * 42 + 41, which is
 * not 6 * 42: that connection has no report.
 */
#ifndef KUBEWEIR_ENDS_H
#define KUBEWEIR_ENDS_H
#ifdef ENDS

/* How long a connection that FIN or RST has ended is quiet before it is reported: the last packets have come. */
#define END_QUIET (10 * SECOND)
/* After how long a connection that lives on is reported. */
#define END_HEARTBEAT (3600 * SECOND)
/* In units of 2^30 ns: what passes later after an RST shows that it was ignored. Until then it may have been under way. */
#define RESET_TICK_SHIFT 30
#define RESET_TICKS 1
/* How much further than it has sent, headers included, the sequence number of an RST may be. */
#define RESET_SLACK 65536

/* A word of lately: bytes, packets, tags. What is carried beyond the last bit is lost, as it is from a product. */
#define PACKETS_SHIFT 34
#define TAGS_SHIFT 56
#define BYTES_MASK ((1ULL << PACKETS_SHIFT) - 1)
#define PACKETS_MASK ((1ULL << (TAGS_SHIFT - PACKETS_SHIFT)) - 1)
/*
 * At so many packets or bytes, the next packet on the slow path settles them. That comes within RECENT_TICKS: 80 ms in
 * which 3 million packets and 12 GB have room.
 */
#define MANY_PACKETS (1ULL << 20)
#define MANY_BYTES (1ULL << 32)

/* The word marks: how many FIN out of the pod, FIN into it, and RST have passed; and the sum of their tags. */
#define MARK_BITS 12
#define MARK_FIN(direction) (((direction) & 1) * MARK_BITS)
#define MARK_RST (2 * MARK_BITS)
#define MARK_TAGS (3 * MARK_BITS)
/* More than the tags of all FIN and RST can add up to: with it, no sum fits. */
#define MARK_DISTRUST (1ULL << (MARK_TAGS + 23))
#define MARK_MASK ((1ULL << MARK_BITS) - 1)

/* An entry of the ring of verdicts, with the head that the kernel puts in front of it. */
#define RING_ENTRY (sizeof(struct verdict) + 8)
#define RING_HEAD 8
/* Two entries of 96 bytes whose offsets in a page of 4,096 are equal are a multiple of 128 entries apart. */
#define ENTRIES_APART 128
#define PAGE_BYTES 4096
/* 3 * 43 is 1 modulo 128: from an offset in units of 32 bytes, three of which are an entry, to an entry. */
#define ENTRY_OF_UNIT 43

/* place: as in struct connection. 0 if it has none. */
static __always_inline struct traffic *traffic_of(u32 place)
{
	u32 number = place - 1;

	return traffic.lookup(&number);
}

/* Another number for each connection key; never 0. Only compared where the place has had the connection anyway. */
static __always_inline u64 owner_of(const struct connection_key *key)
{
	const u64 *word = (const u64 *)key;

	return (word[0] * 0x9e3779b97f4a7c15 ^ word[1] * 0xc2b2ae3d27d4eb4f ^ word[2] * 0x165667b19e3779f9 ^
		word[3] * 0x27d4eb2f165667c5 ^ word[4] * 0xff51afd7ed558ccd ^ word[5] * 0xc4ceb9fe1a85ec53) | 1;
}

/*
 * Have the packet counted for the connection of a key, if the place (as in struct connection) is that connection's. The
 * serial is read first: so it is never that of a later connection.
 */
static __always_inline void find_counted(struct work *w, const struct connection_key *key, u32 place)
{
	struct traffic *counted = traffic_of(place);

	w->counted = 0;
	if (!counted)
		return;
	w->serial = *(volatile u32 *)&counted->serial;
	if (*(volatile u64 *)&counted->owner == owner_of(key))
		w->counted = place;
}

static __always_inline void add_packet(struct traffic *counted, u32 direction, u32 bytes, u32 serial)
{
	__sync_fetch_and_add(&counted->lately[direction & 1],
			     (u64)serial << TAGS_SHIFT | 1ULL << PACKETS_SHIFT | bytes);
}

static __always_inline void add_mark(struct traffic *counted, u32 shift, u32 serial)
{
	/* Once is enough, so a flood of them does not fill the word. */
	if (!(*(volatile u64 *)&counted->marks >> shift & MARK_MASK))
		__sync_fetch_and_add(&counted->marks, 1ULL << shift | (u64)(serial & 0xff) << MARK_TAGS);
}

static __always_inline bool has_many(const struct traffic *counted, u32 direction)
{
	u64 lately = counted->lately[direction & 1];

	return (lately >> PACKETS_SHIFT & PACKETS_MASK) > MANY_PACKETS || (lately & BYTES_MASK) > MANY_BYTES;
}

/*
 * A new verdict of the connection that owns a place cannot be kept, because another CPU has claimed the place. What
 * passes from now on must not be reported with the verdict before, so the next report is withheld: no packets have such
 * tags. Needs no claim, because it only adds.
 */
static __always_inline void distrust(u32 number, u64 owner)
{
	struct traffic *counted = traffic.lookup(&number);

	if (counted && *(volatile u64 *)&counted->owner == owner && counted->state != TRAFFIC_UNLOGGED)
		__sync_fetch_and_add(&counted->marks, MARK_DISTRUST);
}

/* Without a branch, because the verifier of older kernels would follow each one for each place that is looked at. */
static __always_inline void settle_marks(struct traffic *counted)
{
	u64 marks = *(volatile u64 *)&counted->marks;
	u64 fin[2] = {marks & MARK_MASK, marks >> MARK_FIN(1) & MARK_MASK}, reset = marks >> MARK_RST & MARK_MASK;

	u64 wrong = (fin[0] + fin[1] + reset) * (counted->serial & 0xff) ^ marks >> MARK_TAGS;

	__sync_fetch_and_add(&counted->marks, -marks);
	counted->uncertain |= wrong | wrong >> 8 | wrong >> 16 | wrong >> 24;
	for (int i = 0; i < 2; i++)
		counted->fin[i] |= (fin[i] + MARK_MASK) >> MARK_BITS;
	counted->reset |= (reset + MARK_MASK) >> MARK_BITS;
}

/* Move what was counted lately to where it has room. The place must be claimed. */
static __always_inline void settle(struct traffic *counted)
{
	for (int i = 0; i < 2; i++) {
		u64 lately = *(volatile u64 *)&counted->lately[i], packets = lately >> PACKETS_SHIFT & PACKETS_MASK;

		__sync_fetch_and_add(&counted->lately[i], -lately);
		counted->uncertain |= packets * counted->serial ^ lately >> TAGS_SHIFT;
		counted->packets[i] += packets;
		counted->bytes[i] += lately & BYTES_MASK;
	}
	settle_marks(counted);
}

/*
 * bcc has no method for bpf_ringbuf_query, and without a method there is no way to name a map. What it makes of
 * ringbuf_output becomes the query here, by the preprocessor, which runs once more after bcc.
 */
#define bpf_ringbuf_output(ring, data, size, flags) bpf_ringbuf_query(ring, flags)
/* Return where the ring's next entry begins. Other CPUs move it all the time. */
static __always_inline u64 producer_position(void)
{
	struct verdict *unused = 0; /* bcc asks for its type */

	return events.ringbuf_output(unused, 0, BPF_RB_PROD_POS);
}
#undef bpf_ringbuf_output

/*
 * Return the number of a verdict that has a place in the ring: its position, divided by the length of an entry. The
 * kernel tells the position of the producer only, which other CPUs move as well. But the entry's address says where in
 * a page it is, so among the 128 entries from `before` on there is only one that it can be. If more were written
 * meanwhile (a hypervisor has taken this CPU away), the number is not known. *scratch must be in a map: what is read
 * from there is no pointer to the verifier.
 */
static __always_inline u64 number_of_entry(const struct verdict *verdict, u64 before, volatile u64 *scratch)
{
	u64 first = before / RING_ENTRY, offset;

	*scratch = (u64)verdict;
	offset = (*scratch - RING_HEAD) & (PAGE_BYTES - 1);
	if (producer_position() - before > ENTRIES_APART * RING_ENTRY)
		return NO_NUMBER;
	return first + ((offset / 32 * ENTRY_OF_UNIT - first) & (ENTRIES_APART - 1));
}

static __always_inline void forget_counts(struct traffic *counted)
{
	for (int i = 0; i < 2; i++)
		counted->bytes[i] = counted->packets[i] = 0;
}

/*
 * Return `until`, or `since` if that is later: the part before may be an hourly report, whose time is that of its sweep,
 * not that of the last packet. Without a branch, as settle_marks is.
 */
static __always_inline u64 no_earlier(u64 until, u64 since)
{
	u64 behind = since - until, is_later = behind >> 63;

	/* Hidden from the compiler, which would make a branch of it. */
	asm volatile("" : "+r"(is_later));
	return until + (behind & (is_later - 1));
}

/*
 * Report what was counted since the last time, and settled. Return 0 if the ring is full; then nothing is changed. What
 * is uncertain is not reported.
 */
static __always_inline bool report_traffic(struct traffic *counted, u8 how, u64 until)
{
	struct connection_end *end;

	until = no_earlier(until, counted->since_ns);
	if (counted->uncertain) {
		count_undisturbed(COUNT_ENDS_UNCERTAIN, 1);
		counted->uncertain = counted->fin[0] = counted->fin[1] = counted->reset = 0;
	} else {
		end = connection_ends.ringbuf_reserve(sizeof(*end));
		if (!end)
			return 0;
		end->verdict = counted->verdict;
		end->ring = counted->ring;
		end->number = counted->number;
		end->since_ns = counted->since_ns;
		end->until_ns = until;
		end->part = counted->part;
		end->how = how;
		end->padding[0] = end->padding[1] = end->padding[2] = 0;
		for (int i = 0; i < 2; i++) {
			end->bytes[i] = counted->bytes[i];
			end->packets[i] = counted->packets[i];
		}
		connection_ends.ringbuf_submit(end, BPF_RB_NO_WAKEUP);
	}
	forget_counts(counted);
	counted->since_ns = until;
	counted->part++;
	return 1;
}

/* Whether there is anything that no report that ends the connection has told. */
static __always_inline bool is_unreported(const struct traffic *counted)
{
	return counted->state == TRAFFIC_LOGGED ||
	       (counted->state == TRAFFIC_REPORTED && (counted->packets[0] || counted->packets[1] ||
						       counted->lately[0] || counted->lately[1]));
}

static __always_inline bool has_closed(const struct traffic *counted)
{
	return counted->fin[EGRESS] && counted->fin[INGRESS];
}

/* Whether an RST has passed, and nothing much later: whoever receives one that it ignores goes on. */
static __always_inline bool was_reset(const struct traffic *counted, u64 last)
{
	u64 at = counted->reset_at;

	return counted->reset && at >> 32 == counted->serial &&
	       (s32)((u32)(last >> RESET_TICK_SHIFT) - (u32)at) <= RESET_TICKS;
}

/* How the connection ended, by what is settled. last: its last packet. otherwise: if no packet says it. */
static __always_inline u8 how_ended(const struct traffic *counted, u64 last, u8 otherwise)
{
	if (has_closed(counted))
		return END_CLOSED;
	return was_reset(counted, last) ? END_RESET : otherwise;
}

/* Whether policy has denied the connection when it was judged last. */
static __always_inline bool is_denied_by_policy(u8 verdict, u8 reason)
{
	return verdict == VERDICT_DENY && (reason == REASON_DEFAULT_DENY || reason == REASON_EXPLICIT_DENY);
}

/*
 * Report the connection that leaves a place, which is claimed, and leave nothing of it for the next one. otherwise: how
 * it ended, if no packet says it. Also run by user space.
 */
static __always_inline void end_traffic(struct traffic *counted, u8 otherwise, u64 until)
{
	settle(counted);
	if (is_unreported(counted) && !report_traffic(counted, how_ended(counted, until, otherwise), until))
		count_undisturbed(COUNT_ENDS_LOST, 1);
	*(volatile u64 *)&counted->owner = 0;
	*(volatile u32 *)&counted->serial = counted->serial + 1;
	/* What was counted since then. What comes even later has another tag than the next connection's. */
	for (int i = 0; i < 2; i++)
		__sync_fetch_and_add(&counted->lately[i], -*(volatile u64 *)&counted->lately[i]);
	__sync_fetch_and_add(&counted->marks, -*(volatile u64 *)&counted->marks);
	forget_counts(counted);
	counted->state = TRAFFIC_UNLOGGED;
	counted->fin[0] = counted->fin[1] = counted->reset = counted->uncertain = 0;
}

/* Say in a word as what a packet is counted: its bytes, and the tag. */
static __always_inline u32 count_of(u32 bytes, u32 serial)
{
	return bytes << 8 | (serial & 0xff);
}

/*
 * Take back what was counted for a packet that the pod has sent, at a time; word: count_of() it. Return its bytes, or 0
 * if it is not certain that it is among what is counted and not reported. The place must be claimed.
 */
static __always_inline u32 take_back(struct traffic *counted, u32 word, u64 at)
{
	u32 bytes = word >> 8;

	if (!bytes || (word & 0xff) != (counted->serial & 0xff) || at < counted->since_ns)
		return 0;
	settle(counted);
	if (!counted->packets[EGRESS] || counted->bytes[EGRESS] < bytes)
		return 0;
	counted->packets[EGRESS]--;
	counted->bytes[EGRESS] -= bytes;
	return bytes;
}

/* Keep the verdict that was written with the traffic of a place, which is claimed. */
static __always_inline void keep_verdict(struct traffic *counted, const struct logged_verdict *logged)
{
	counted->verdict = logged->verdict;
	counted->ring = logged->ring;
	counted->number = logged->number;
	counted->since_ns = logged->verdict.time_ns;
	counted->part = 0;
	counted->state = TRAFFIC_LOGGED;
}

#endif
#endif
