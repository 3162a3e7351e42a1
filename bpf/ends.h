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
 *      the dialled address, which all of its packets meet, although the exit judges it.
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
 * No lock is taken for counting, and only one atomic addition, because these are most of what counting costs. Its word
 * is emptied long before it is full (settle), by who has claimed the place (places.h), as whoever reports has.
 */
#ifndef KUBEWEIR_ENDS_H
#define KUBEWEIR_ENDS_H
#ifdef ENDS

/* How long a connection that FIN or RST has ended is quiet before it is reported: the last packets have come. */
#define END_QUIET (10 * SECOND)
/* After how long a connection that lives on is reported. */
#define END_HEARTBEAT (3600 * SECOND)

#define PACKETS_SHIFT 40
#define ONE_PACKET (1ULL << PACKETS_SHIFT)
/*
 * At so many packets, the next one on the slow path settles them. That comes within RECENT_TICKS, so there are never
 * 2^24, and their bytes, at most 2^19 each (BIG TCP), fit 40 bits until then.
 */
#define MANY_PACKETS (1ULL << 20)

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

static __always_inline void add_packet(struct traffic *counted, u32 direction, u32 bytes)
{
	__sync_fetch_and_add(&counted->lately[direction & 1], ONE_PACKET | bytes);
}

/* Move what was counted lately to where it has room. The place must be claimed. */
static __always_inline void settle(struct traffic *counted)
{
	for (int i = 0; i < 2; i++) {
		u64 lately = *(volatile u64 *)&counted->lately[i];

		__sync_fetch_and_add(&counted->lately[i], -lately);
		counted->packets[i] += lately >> PACKETS_SHIFT;
		counted->bytes[i] += lately & (ONE_PACKET - 1);
	}
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

/* Report what was counted since the last time. Return 0 if the ring is full; then nothing is changed. */
static __always_inline bool report_traffic(struct traffic *counted, u8 how, u64 until)
{
	struct connection_end *end = connection_ends.ringbuf_reserve(sizeof(*end));

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
	settle(counted);
	for (int i = 0; i < 2; i++) {
		end->bytes[i] = counted->bytes[i];
		end->packets[i] = counted->packets[i];
		counted->bytes[i] = counted->packets[i] = 0;
	}
	connection_ends.ringbuf_submit(end, BPF_RB_NO_WAKEUP);
	counted->since_ns = until;
	counted->part++;
	return 1;
}

static __always_inline bool has_closed(const struct traffic *counted)
{
	return counted->fin[EGRESS] && counted->fin[INGRESS];
}

/* Whether there is anything that no report that ends the connection has told. */
static __always_inline bool is_unreported(const struct traffic *counted)
{
	return counted->state == TRAFFIC_LOGGED ||
	       (counted->state == TRAFFIC_REPORTED && (counted->packets[0] || counted->packets[1] ||
						       counted->lately[0] || counted->lately[1]));
}

/* How the connection ended. otherwise: if neither the packets nor a policy say so. */
static __always_inline u8 how_ended(const struct traffic *counted, u8 otherwise)
{
	if (counted->revoked)
		return END_REVOKED;
	if (has_closed(counted))
		return END_CLOSED;
	return counted->reset ? END_RESET : otherwise;
}

/* Report the connection that leaves a place, and leave nothing of it for the next one. Also run by user space. */
static __always_inline void end_traffic(struct traffic *counted, u8 otherwise, u64 until)
{
	if (is_unreported(counted) && !report_traffic(counted, how_ended(counted, otherwise), until))
		count_undisturbed(COUNT_ENDS_LOST, 1);
	counted->state = TRAFFIC_UNLOGGED;
	settle(counted);
	for (int i = 0; i < 2; i++) {
		counted->bytes[i] = counted->packets[i] = 0;
		counted->fin[i] = 0;
	}
	counted->reset = counted->revoked = 0;
	counted->serial++;
}

/* Keep the verdict that w->logged has with the traffic of a place. */
static __always_inline void keep_verdict(u32 place, const struct logged_verdict *logged)
{
	struct traffic *counted = traffic_of(place);

	if (!counted)
		return;
	counted->verdict = logged->verdict;
	counted->ring = logged->ring;
	counted->number = logged->number;
	counted->since_ns = logged->verdict.time_ns;
	counted->part = 0;
	counted->state = TRAFFIC_LOGGED;
}

/* Whether policy allows the connection, which it did, no longer. It may again. */
static __always_inline void note_revoked(u32 place, bool is_revoked)
{
	struct traffic *counted = traffic_of(place);

	if (counted && counted->revoked != is_revoked)
		counted->revoked = is_revoked;
}

#endif
#endif
