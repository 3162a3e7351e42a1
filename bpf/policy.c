/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Network policy at the host side of a pod's veth, and a row for every verdict.
 *
 * The way of a packet is straight down: parse, endpoint, source check,
 * conntrack, policy, row. User space compiles policy to what is here two
 * look-ups: a row for (set, direction, identity of the peer), and a port in
 * the row. It builds every change on the idle side of the maps and switches
 * by one word, the epoch, which is read once, before any look-up.
 *
 * What NAT may hide is judged where a packet leaves the node: to all but a
 * pod's address, the pod's hook writes down who sent what to where, in a slot
 * whose number goes along in skb->tc_index, which NAT leaves alone. The hook on
 * the egress of every device judges by that and by the packet's destination.
 *
 * Every map is pinned below PIN, so that enforcement outlives the probe.
 * What passes returns TC_ACT_UNSPEC: TC_ACT_OK would skip the filters of others.
 *
 * Compile-time settings: PIN, RING_BYTES, FLOWS, ADDRESSES, ROWS, PORTS, WINDOWS, ENDPOINTS, CPU_STRIDE.
 */
#include <uapi/linux/bpf.h>
#include <uapi/linux/if_ether.h>
#include <uapi/linux/ip.h>
#include <uapi/linux/ipv6.h>
#include <uapi/linux/pkt_cls.h>

#include "event.h"
#include "layout.h"
#include "packet.h"

#define PINNED(type, key, value, name, size, flags) BPF_F_TABLE(type ":" PIN "/" #name, key, value, name, size, flags)

PINNED("array", u32, u64, config, CONFIG_WORDS, 0);
PINNED("percpu_array", u32, u64, counters, COUNTERS, 0);
PINNED("hash", u32, struct endpoint, endpoints, ENDPOINTS, 0);
PINNED("lpm_trie", struct address_key, struct peer, addresses, ADDRESSES, BPF_F_NO_PREALLOC);
PINNED("hash", struct row_key, struct row, rows, ROWS, BPF_F_NO_PREALLOC);
PINNED("lpm_trie", struct port_key, struct answer, ports, PORTS, BPF_F_NO_PREALLOC);
PINNED("lru_hash", struct flow_key, struct flow, flows, FLOWS, 0);
PINNED("lru_hash", struct fragment_key, u8, fragments, 4096, 0);
PINNED("hash", struct window_key, struct window, windows_0, WINDOWS, 0);
PINNED("hash", struct window_key, struct window, windows_1, WINDOWS, 0);
PINNED("hash", struct window_key, struct window, floods_0, 8192, 0);
PINNED("hash", struct window_key, struct window, floods_1, 8192, 0);
PINNED("lru_hash", struct place, struct flow_key, places, FLOWS, 0);
PINNED("hash", u32, struct budget, budgets, 4 * ENDPOINTS, 0);
/* The node's own addresses: a local pod's with its interface, the node's with 0. */
PINNED("hash", struct local_key, u32, locals, 8 * ENDPOINTS, 0);
PINNED("array", u32, struct origin, slots, SLOTS, 0);
PINNED("percpu_array", u32, u32, cursors, 1, 0);
PINNED("lru_hash", u32, struct origin, origins, 65536, 0);

struct events_table {
	int key;
	u32 leaf;
	int (*ringbuf_output)(void *, u64, u64);
	void *(*ringbuf_reserve)(u64);
	void (*ringbuf_discard)(void *, u64);
	void (*ringbuf_submit)(void *, u64);
	u32 max_entries;
};
__attribute__((section("maps/ringbuf:" PIN "/events"))) struct events_table events = {.max_entries = RING_BYTES};

#define SECOND 1000000000ULL
/* As nf_conntrack's defaults, but an established TCP flow in hours: a later packet is adopted again. */
#define TIMEOUT_TCP (6 * 3600 * SECOND)
#define TIMEOUT_TCP_UNANSWERED (120 * SECOND)
#define TIMEOUT_TCP_CLOSING (120 * SECOND)
#define TIMEOUT_ANSWERED (180 * SECOND)
#define TIMEOUT_UNANSWERED (30 * SECOND)
/* Places that a new connection looks at for one that is not in use. */
#define SECOND_CHANCES 4
/* How long after the attach a flow without a TCP state may be taken for an older one's reply. */
#define ADOPTION (60 * SECOND)

/* How long a stamp may be on its way: a packet behind a slow neighbour look-up was 2 s old. */
#define STAMP_AGE (4 * SECOND)

struct decision {
	u32 rule;
	u32 identity;
	u32 kind;	/* of the peer */
	u8 verdict;
	u8 reason;
};

enum hook {
	POD_EGRESS,	/* the pod's packet comes in */
	DEVICE_EXIT,	/* it leaves the node, or goes to another pod of it */
	POD_INGRESS,	/* into the pod */
};

/* What one run works on: more than the stack of 512 bytes holds. One a CPU; no run of ours interrupts another. */
struct work {
	struct packet packet;
	struct flow_key key;
	struct fragment_key fragment;
	struct window_key what;
	struct flow fresh;
	struct origin origin;
	struct decision decision;
	u64 now;
	u32 epoch;
	u16 dialled_port;
	u8 stamped;	/* the packet is to carry its origin to the exit */
	u8 padding;
	u8 dialled[16];	/* what DNAT changed, or zero */
};
BPF_F_TABLE("percpu_array", u32, struct work, works, 1, 0);

static __always_inline u64 setting(u32 word)
{
	u64 *value = config.lookup(&word);

	return value ? *value : 0;
}

static __always_inline void count(u32 counter)
{
	u64 *value = counters.lookup(&counter);

	if (value)
		*value += 1;
}

/* --- rows --------------------------------------------------------------- */

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

/* --- denied: at once, then a count a window ------------------------------ */

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

/* --- policy -------------------------------------------------------------- */

static __always_inline void take_row(struct decision *out, const struct row *row, u32 *entries)
{
	out->rule = row->rule;
	out->verdict = row->verdict;
	out->reason = row->reason;
	*entries = row->ports;
}

/*
 * May the pod's end of w->key be connected with this peer in this direction?
 * peer and port are those of the other end: NAT may show another one in the
 * key. Reads the side that the epoch chose.
 */
static __always_inline void judge(struct work *w, struct endpoint *endpoint, u32 direction, const u8 *peer_address,
				  u16 peer_port, bool node, struct decision *out)
{
	u32 side = w->epoch & 1, entries;
	struct address_key address = {.prefix = 128};
	struct row_key key = {.set = endpoint->set[side], .direction = direction};
	u16 port = direction == EGRESS ? peer_port : w->key.local_port;
	struct answer *answer;
	struct peer *peer;
	struct row *row;

	__builtin_memcpy(address.address, peer_address, 16);
	peer = addresses.lookup(&address);
	out->kind = KIND_WORLD;
	if (peer) {
		key.identity = peer->identity[side];
		out->kind = peer->kind[side];
	}
	out->identity = key.identity;
	out->rule = 0;
	out->verdict = VERDICT_ALLOW;
	if (node) {
		out->reason = REASON_NODE;
		return;
	}
	if (same(w->key.local, peer_address)) {
		out->reason = REASON_SELF;
		return;
	}
	row = rows.lookup(&key);
	if (row)
		take_row(out, row, &entries);
	else
		take_row(out, &endpoint->defaults[side][direction & 1][out->kind < KINDS ? out->kind : KIND_WORLD],
			 &entries);
	if (!entries)
		return;
	struct port_key entry = {
		.prefix = 56, .row = entries, .protocol = w->key.protocol, .port = {port >> 8, port & 0xff}};
	answer = ports.lookup(&entry);
	if (!answer)
		return;
	out->rule = answer->rule;
	out->verdict = answer->verdict;
	out->reason = answer->reason;
}

/* --- connections ---------------------------------------------------------- */

static __always_inline void flow_of(struct flow_key *key, const struct packet *packet, u32 direction)
{
	bool echo = is_echo_request(packet);

	key->protocol = packet->protocol;
	if (direction == EGRESS) {
		__builtin_memcpy(key->local, packet->source, 16);
		__builtin_memcpy(key->remote, packet->destination, 16);
		key->local_port = packet->source_port;
		key->remote_port = packet->destination_port;
	} else {
		__builtin_memcpy(key->local, packet->destination, 16);
		__builtin_memcpy(key->remote, packet->source, 16);
		key->local_port = packet->destination_port;
		key->remote_port = packet->source_port;
	}
	if (packet->protocol != PROTOCOL_ICMP && packet->protocol != PROTOCOL_ICMPV6)
		return;
	/* An echo request is never a reply: the side that asks is part of the key. */
	key->role = ROLE_ICMP + direction;
	key->local_port = packet->destination_port;
	key->remote_port = 0;
	if (echo || is_echo_reply(packet)) {
		key->role = ROLE_ECHO + (echo ? direction : !direction);
		key->local_port = packet->source_port;
	}
}

static __always_inline bool is_over(const struct flow *flow, u8 protocol, u64 now)
{
	u64 age = now - flow->last_ns, limit = TIMEOUT_UNANSWERED;

	/* Another CPU may have written a later time. */
	if (now < flow->last_ns)
		return 0;
	if (protocol == PROTOCOL_TCP)
		limit = flow->state & FLOW_CLOSING   ? TIMEOUT_TCP_CLOSING
			: flow->state & FLOW_REPLIED ? TIMEOUT_TCP
						     : TIMEOUT_TCP_UNANSWERED;
	else if (flow->state & FLOW_REPLIED)
		limit = TIMEOUT_ANSWERED;
	return age > limit;
}

/* A SYN is always judged, but for the same one once more. */
static __always_inline bool continues(const struct flow *flow, const struct packet *packet, u32 direction)
{
	if (!is_new_tcp(packet))
		return 1;
	return flow->direction == direction && flow->sequence == packet->sequence && !(flow->state & FLOW_CLOSING);
}

static __always_inline void touch(struct flow *flow, const struct packet *packet, u32 direction, u64 now)
{
	flow->last_ns = now;
	if (flow->direction != direction && !(flow->state & FLOW_REPLIED))
		flow->state |= FLOW_REPLIED;
	if (packet->tcp_flags & (TCP_FIN | TCP_RST))
		flow->state |= FLOW_CLOSING;
}

/*
 * True: an ICMP error about a flow that is known and allowed. The quoted packet
 * went the other way, and who sent it is told: else the quotation would be a
 * passport to anywhere.
 */
static __always_inline bool is_about_known(struct __sk_buff *skb, const struct packet *packet, u32 number, u32 direction)
{
	struct flow_key key = {.endpoint = number};
	struct packet quoted = {};
	struct flow *flow;
	int parsed;

	if (packet->protocol == PROTOCOL_ICMP)
		parsed = parse_v4(skb, packet->transport + 8, &quoted, 1);
	else
		parsed = parse_v6(skb, packet->transport + 8, &quoted, 1);
	if (parsed != PARSED || quoted.fragment == FRAGMENT_LATER || !same(packet->destination, quoted.source))
		return 0;
	flow_of(&key, &quoted, !direction);
	flow = flows.lookup(&key);
	return flow && flow->verdict != VERDICT_DENY;
}

static __always_inline bool is_in_use(const struct flow *flow, u8 protocol, u64 now)
{
	return (flow->state & FLOW_REPLIED) && !(flow->state & FLOW_CLOSING) && !is_over(flow, protocol, now);
}

/*
 * A new connection takes its endpoint's next place, and what had the place is
 * forgotten, so that one pod's scan pushes out its own and nobody else's. What
 * is in use keeps its place while others near it are not.
 */
static __always_inline void take_place(const struct flow_key *key, u64 now)
{
	struct budget *budget = budget_of(key->endpoint);
	struct place place = {.endpoint = key->endpoint};
	u32 places_each = setting(CONFIG_FLOWS), next;

	if (!budget || !places_each)
		return;
	next = budget->next;
	for (int i = 0; i < SECOND_CHANCES; i++) {
		struct flow_key *held;
		struct flow *flow;

		place.number = next++ % places_each;
		held = places.lookup(&place);
		if (!held)
			break;
		flow = flows.lookup(held);
		if (flow && i < SECOND_CHANCES - 1 && is_in_use(flow, held->protocol, now))
			continue;
		if (flow)
			flows.delete(held);
		break;
	}
	budget->next = next;
	places.update(&place, (struct flow_key *)key);
}

/*
 * Older than the program: without a SYN TCP opens nothing, so that what is
 * seen first may be the reply. Without a TCP state only just after the attach,
 * and only to a pod that was there before: else whoever may be called from a
 * port may open any.
 */
static __always_inline bool may_be_older(const struct endpoint *endpoint, const struct packet *packet, u64 now)
{
	if (packet->protocol == PROTOCOL_TCP)
		return !is_new_tcp(packet);
	return endpoint->attached_ns && now - endpoint->attached_ns < ADOPTION && !is_echo_request(packet);
}

static __always_inline bool is_own(const struct endpoint *endpoint, const u8 *address)
{
	/* A pod without a family has zeros there, which an IPv6 packet may have for its source. */
	return !is_zero(address) && (same(address, endpoint->address[0]) || same(address, endpoint->address[1]));
}

static __always_inline bool passes(u8 verdict)
{
	return verdict == VERDICT_ALLOW || verdict == VERDICT_AUDIT;
}

/* --- stamps: what the pod's hook tells the exit ---------------------------- */

static __always_inline void note_origin(struct __sk_buff *skb, struct work *w)
{
	struct origin *origin = &w->origin;

	origin->time_ns = w->now;
	__builtin_memcpy(origin->source, w->packet.source, 16);
	__builtin_memcpy(origin->destination, w->packet.destination, 16);
	origin->source_port = w->packet.source_port;
	origin->destination_port = w->packet.destination_port;
	origin->protocol = w->packet.protocol;
	origin->endpoint = w->key.endpoint;
	origin->ifindex = skb->ifindex;
	origin->hash = bpf_get_hash_recalc(skb);
}

/* A slot a packet, in turn. Each CPU goes through all chunks by itself: that two write one slot at once is seldom, and
 * seen by the hash. */
static __always_inline void stamp(struct __sk_buff *skb, struct work *w)
{
	u32 zero = 0, *cursor = cursors.lookup(&zero), turn, index;
	struct origin *slot;

	if (!cursor)
		return;
	turn = (*cursor)++;
	index = (turn / CHUNK * CPU_STRIDE + bpf_get_smp_processor_id()) % CHUNKS * CHUNK + turn % CHUNK;
	slot = slots.lookup(&index);
	if (!slot)
		return;
	*slot = w->origin;
	skb->tc_index = index + 1;
}

/* By the flow, so that what tells the origin by hash alone is written once a second, not once a packet. */
static __always_inline void stamp_flow(struct __sk_buff *skb, struct work *w, struct flow *flow, bool fresh)
{
	note_origin(skb, w);
	w->origin.confirm = !(flow->state & FLOW_OTHER) || !passes(flow->verdict);
	if (fresh || flow->hash != w->origin.hash || w->now >> 30 != flow->last_ns >> 30) {
		flow->hash = w->origin.hash;
		origins.update(&w->origin.hash, &w->origin);
	}
	stamp(skb, w);
}

enum found {
	ORIGIN_NONE,	/* no local pod's packet */
	ORIGIN_FOUND,
	ORIGIN_HIDDEN,	/* a pod's, and nothing says whose */
};

static __always_inline bool fits(const struct origin *origin, const struct work *w, u32 hash)
{
	return origin->hash == hash && origin->protocol == w->packet.protocol && origin->time_ns <= w->now &&
	       w->now - origin->time_ns < STAMP_AGE;
}

/* Who sent what leaves here: by the stamp, else by its hash, else by a pod's address that can be seen. */
static __always_inline enum found find_origin(struct __sk_buff *skb, struct work *w, u32 stamped)
{
	u32 hash = bpf_get_hash_recalc(skb), index = stamped - 1, from = skb->ingress_ifindex;
	struct local_key source = {};
	struct endpoint *endpoint;
	struct origin *origin;
	u32 *local;

	if (index < SLOTS) {
		origin = slots.lookup(&index);
		if (origin && fits(origin, w, hash)) {
			w->origin = *origin;
			return ORIGIN_FOUND;
		}
	}
	__builtin_memcpy(source.address, w->packet.source, 16);
	local = locals.lookup(&source);
	origin = origins.lookup(&hash);
	/* A hash may be a stranger's too: the source is the same, or a masquerade has put the node's there. */
	if (origin && fits(origin, w, hash) &&
	    (same(origin->source, w->packet.source) || (local && !*local))) {
		w->origin = *origin;
		return ORIGIN_FOUND;
	}
	if (local && *local) {
		from = *local;
		endpoint = endpoints.lookup(&from);
		if (!endpoint)
			return ORIGIN_NONE;
		w->key.endpoint = endpoint->number;
		note_origin(skb, w);
		w->origin.ifindex = from;
		w->origin.confirm = 0;
		return ORIGIN_FOUND;
	}
	if (index >= SLOTS)
		return ORIGIN_NONE;
	endpoint = endpoints.lookup(&from);
	if (endpoint)
		w->key.endpoint = endpoint->number;
	return endpoint || local ? ORIGIN_HIDDEN : ORIGIN_NONE;
}

/* The destination that was dialled, where DNAT has changed it. */
static __always_inline void note_dialled(struct work *w)
{
	const struct origin *origin = &w->origin;

	if (same(origin->destination, w->packet.destination) &&
	    origin->destination_port == w->packet.destination_port)
		return;
	/* Of a later fragment no port is known. */
	if (w->packet.fragment == FRAGMENT_LATER)
		return;
	__builtin_memcpy(w->dialled, origin->destination, 16);
	w->dialled_port = w->key.role ? 0 : origin->destination_port;
}

/* What the exit found, for the flow of the dialled address: its replies pass by that, and are judged again by that. */
static __always_inline void confirm(struct work *w)
{
	struct flow_key dialled = w->key;
	struct flow *flow;

	__builtin_memcpy(dialled.remote, w->dialled, 16);
	dialled.remote_port = w->key.role ? 0 : w->dialled_port;
	flow = flows.lookup(&dialled);
	if (!flow || flow->direction != EGRESS)
		return;
	__builtin_memcpy(flow->other, w->key.remote, 16);
	flow->other_port = w->key.remote_port;
	flow->state = (flow->state | FLOW_OTHER) & ~FLOW_FROM_NODE;
	if (!(flow->state & FLOW_DIALLED))
		return;
	flow->rule = w->decision.rule;
	flow->identity = w->decision.identity;
	flow->verdict = w->decision.verdict;
	flow->reason = w->decision.reason;
	flow->epoch = w->epoch;
}

/* --- the way of a packet --------------------------------------------------- */

/* other: the far end, which NAT may show as another one in the key. */
static __always_inline void describe(struct work *w, u32 direction, const u8 *other, u16 other_port, u8 verdict,
				     u8 reason, u32 rule)
{
	struct window_key *what = &w->what;
	const struct flow_key *key = &w->key;
	bool out = direction == EGRESS;

	what->endpoint = key->endpoint;
	what->rule = rule;
	__builtin_memcpy(out ? what->source : what->destination, key->local, 16);
	__builtin_memcpy(out ? what->destination : what->source, other, 16);
	what->source_port = out ? key->local_port : other_port;
	what->destination_port = out ? other_port : key->local_port;
	if (key->role) {
		what->source_port = key->role >= ROLE_ICMP ? 0 : key->local_port;
		what->destination_port = w->packet.destination_port;
	}
	what->protocol = key->protocol;
	what->verdict = verdict | (out ? 0 : VERDICT_INGRESS);
	what->reason = reason;
	what->flags = 0;
}

static __always_inline int refuse(struct work *w, u32 direction, u8 reason)
{
	w->decision.identity = 0;
	describe(w, direction, w->key.remote, w->key.remote_port, VERDICT_DENY, reason, 0);
	denied(w);
	return TC_ACT_SHOT;
}

static __always_inline void keep(struct flow *flow, const struct decision *decision, u32 epoch)
{
	flow->rule = decision->rule;
	flow->identity = decision->identity;
	flow->verdict = decision->verdict;
	flow->reason = decision->reason;
	flow->epoch = epoch;
}

/*
 * The connection of w->key, found or made, and judged under the epoch of now.
 * True: it passes. node: the packet is the node's own. known_source: w->origin
 * says who sent it.
 */
static __always_inline bool admit(struct __sk_buff *skb, struct work *w, struct endpoint *endpoint, const enum hook hook,
				  bool node, bool known_source)
{
	const u32 direction = hook == POD_INGRESS ? INGRESS : EGRESS;
	struct flow *known = flows.lookup(&w->key), *flow = known;
	struct decision *decision = &w->decision;
	const struct packet *packet = &w->packet;
	const u8 *peer = w->key.remote;
	u16 peer_port = w->key.remote_port;
	bool pending = 0, judging, forward, pass, masked = 0, to_exit = 0, deferred = 0;
	u32 opened = direction;

	if (flow && (is_over(flow, w->key.protocol, w->now) || !continues(flow, packet, direction)))
		flow = 0;
	if (flow && hook == POD_INGRESS) {
		if (flow->verdict == VERDICT_PENDING) {
			/* No exit let it through: nobody's reply, but the node's own where DNAT chose the node. */
			if (node)
				flow->state |= FLOW_FROM_NODE;
			else
				flow = 0;
		} else if (known_source && flow->direction == INGRESS &&
			   !same(flow->state & FLOW_OTHER ? flow->other : w->key.remote, w->origin.source)) {
			/* The masquerade has given another pod the same port. */
			flow = 0;
		}
	}
	if (flow) {
		opened = flow->direction & 1;
		node = flow->state & FLOW_FROM_NODE;
		pending = flow->verdict == VERDICT_PENDING;
		decision->rule = flow->rule;
		decision->identity = flow->identity;
		decision->verdict = flow->verdict;
		decision->reason = flow->reason;
	} else if ((packet->tcp_flags & (TCP_SYN | TCP_ACK)) == (TCP_SYN | TCP_ACK)) {
		opened = !direction;
		node = 0;
	}
	forward = opened == EGRESS && direction == EGRESS;
	judging = !flow || flow->epoch != w->epoch || (pending && hook != POD_EGRESS) ||
		  (hook == DEVICE_EXIT && forward && flow->state & FLOW_OTHER);
	if (hook == POD_EGRESS && forward && flow) {
		to_exit = flow->state & FLOW_EXIT;
		deferred = flow->state & FLOW_DIALLED;
	}
	if (hook == POD_INGRESS && opened == INGRESS && known_source) {
		peer = w->origin.source;
		peer_port = w->origin.source_port;
		masked = !same(w->origin.source, w->key.remote);
	} else if (!forward && flow && flow->state & FLOW_OTHER) {
		peer = flow->other;
		peer_port = flow->other_port;
		if (opened == EGRESS) {
			__builtin_memcpy(w->dialled, w->key.remote, 16);
			w->dialled_port = w->key.remote_port;
		}
	}
	if (judging) {
		judge(w, endpoint, opened, peer, peer_port, node, decision);
		if (hook == POD_EGRESS && forward) {
			to_exit = decision->kind != KIND_POD;
			deferred = decision->kind == KIND_SERVICE;
		}
		if (!deferred && decision->verdict != VERDICT_ALLOW && !flow && opened == direction &&
		    may_be_older(endpoint, packet, w->now)) {
			struct decision other = {};

			judge(w, endpoint, !opened, w->key.remote, w->key.remote_port, 0, &other);
			if (other.verdict == VERDICT_ALLOW) {
				*decision = other;
				opened = !opened;
				to_exit = forward = masked = 0;
				peer = w->key.remote;
				peer_port = w->key.remote_port;
			}
		}
	}
	pass = deferred || decision->verdict != VERDICT_DENY;
	if (flow) {
		if (judging && !deferred) {
			keep(flow, decision, w->epoch);
			if (hook == POD_EGRESS && forward)
				flow->state = (flow->state & ~(FLOW_DIALLED | FLOW_EXIT)) | (to_exit ? FLOW_EXIT : 0);
			if (hook == DEVICE_EXIT && forward)
				flow->state &= ~FLOW_OTHER;
		} else if (deferred && !(flow->state & FLOW_DIALLED)) {
			flow->state |= FLOW_DIALLED | FLOW_EXIT;
			flow->verdict = VERDICT_PENDING;
		}
		if (to_exit && pass)
			stamp_flow(skb, w, flow, 0);
		touch(flow, packet, direction, w->now);
	} else if (pass) {
		struct flow *fresh = &w->fresh;

		if (deferred)
			decision->verdict = VERDICT_PENDING;
		__builtin_memset(fresh, 0, sizeof(*fresh));
		keep(fresh, decision, w->epoch);
		fresh->last_ns = w->now;
		fresh->sequence = packet->sequence;
		fresh->direction = opened;
		fresh->state = (node ? FLOW_FROM_NODE : 0) | (to_exit ? FLOW_EXIT : 0) | (deferred ? FLOW_DIALLED : 0);
		if (masked) {
			fresh->state |= FLOW_OTHER;
			__builtin_memcpy(fresh->other, w->origin.source, 16);
			fresh->other_port = w->origin.source_port;
		}
		if (opened != direction || (w->key.protocol == PROTOCOL_TCP && !is_new_tcp(packet))) {
			fresh->state |= FLOW_REPLIED;
			if (decision->verdict == VERDICT_ALLOW)
				decision->reason = REASON_ADOPTED;
		}
		if (to_exit)
			stamp_flow(skb, w, fresh, 1);
		if (!known)
			take_place(&w->key, w->now);
		if (flows.update(&w->key, fresh)) {
			count(COUNT_CONNTRACK_FULL);
			refuse(w, opened, REASON_MAP_FULL);
			return 0;
		}
	}
	if (hook == DEVICE_EXIT && forward && !is_zero(w->dialled) && (judging || w->origin.confirm))
		confirm(w);
	if (pass && (deferred || (flow && !pending)))
		return 1;
	describe(w, opened, peer, peer_port, decision->verdict, decision->reason, decision->rule);
	if (!pass) {
		denied(w);
		return 0;
	}
	struct window once = {};

	first_of(&once, w);
	if (!emit(&w->what, &once, 1))
		count(COUNT_RING_FULL);
	return 1;
}

/* What a later fragment is to be found by. */
static __always_inline void note_fragment(struct work *w, u32 hook)
{
	w->fragment.endpoint = w->key.endpoint;
	w->fragment.id = w->packet.fragment_id;
	w->fragment.direction = hook;
	w->fragment.protocol = w->packet.protocol;
	__builtin_memcpy(w->fragment.source, w->packet.source, 16);
	__builtin_memcpy(w->fragment.destination, w->packet.destination, 16);
}

#define FRAGMENT_DENIED 0
#define FRAGMENT_PASSED 1
#define FRAGMENT_STAMPED 2

/* A later fragment follows its first, at each hook on its own. */
static __always_inline int follow(struct __sk_buff *skb, struct work *w, const enum hook hook)
{
	u8 *verdict;

	note_fragment(w, hook);
	verdict = fragments.lookup(&w->fragment);
	if (!verdict)
		return refuse(w, hook == POD_INGRESS ? INGRESS : EGRESS, REASON_FRAGMENT);
	if (*verdict == FRAGMENT_DENIED) {
		count(COUNT_FRAGMENT_DROPPED);
		return TC_ACT_SHOT;
	}
	if (hook == POD_EGRESS && *verdict == FRAGMENT_STAMPED) {
		note_origin(skb, w);
		w->origin.confirm = 0;
		stamp(skb, w);
	}
	return TC_ACT_UNSPEC;
}

/* Of a packet whose key and endpoint are known. */
static __always_inline int judged(struct __sk_buff *skb, struct work *w, struct endpoint *endpoint, const enum hook hook,
				  bool node, bool known_source)
{
	bool pass;
	u8 verdict;

	if (w->packet.fragment == FRAGMENT_LATER)
		return follow(skb, w, hook);
	pass = admit(skb, w, endpoint, hook, node, known_source);
	if (w->packet.fragment == FRAGMENT_FIRST) {
		note_fragment(w, hook);
		verdict = !pass ? FRAGMENT_DENIED
			  : hook == POD_EGRESS && skb->tc_index != STAMP_JUDGED ? FRAGMENT_STAMPED
										 : FRAGMENT_PASSED;
		fragments.update(&w->fragment, &verdict);
	}
	return pass ? TC_ACT_UNSPEC : TC_ACT_SHOT;
}

static __always_inline struct work *begin(void)
{
	u32 zero = 0;
	struct work *w = works.lookup(&zero);

	if (!w)
		return 0;
	__builtin_memset(&w->packet, 0, sizeof(w->packet));
	__builtin_memset(&w->key, 0, sizeof(w->key));
	__builtin_memset(w->dialled, 0, sizeof(w->dialled));
	w->dialled_port = 0;
	w->now = bpf_ktime_get_ns();
	w->epoch = setting(CONFIG_EPOCH);
	return w;
}

static __always_inline int unreadable(struct work *w, int parsed, u32 direction)
{
	if (parsed == PARSED_NOT_IP) {
		count(COUNT_NOT_IP);
		return TC_ACT_SHOT;
	}
	count(COUNT_UNPARSABLE);
	__builtin_memset(&w->packet, 0, sizeof(w->packet));
	return refuse(w, direction, REASON_UNPARSABLE);
}

int pod_egress(struct __sk_buff *skb)
{
	u32 ifindex = skb->ifindex;
	struct endpoint *endpoint = endpoints.lookup(&ifindex);
	struct work *w = begin();
	int parsed;
	bool own;

	if (!w)
		return TC_ACT_SHOT;
	/* Whatever the pod has written there. */
	skb->tc_index = STAMP_JUDGED;
	parsed = parse(skb, &w->packet, 1);
	if (parsed == PARSED_ARP)
		return TC_ACT_UNSPEC;
	w->key.endpoint = endpoint ? endpoint->number : 0;
	if (parsed != PARSED)
		return unreadable(w, parsed, EGRESS);
	flow_of(&w->key, &w->packet, EGRESS);
	own = endpoint && is_own(endpoint, w->key.local);
	if (is_discovery(&w->packet)) {
		if (ICMP_TYPE(&w->packet) == 134 || ICMP_TYPE(&w->packet) == 137)
			return refuse(w, EGRESS, REASON_FORBIDDEN_ND);
		if (own || is_link_local(w->packet.source) || is_zero(w->packet.source)) {
			/* A neighbour's address may be any. Where it is routed after all, the exit judges it. */
			if (!is_link_local(w->packet.destination) && !is_multicast(w->packet.destination)) {
				note_origin(skb, w);
				w->origin.confirm = 0;
				stamp(skb, w);
			}
			return TC_ACT_UNSPEC;
		}
	}
	if (!endpoint || !endpoint->ready)
		return refuse(w, EGRESS, REASON_NOT_READY);
	if (!own)
		return refuse(w, EGRESS, REASON_SPOOFED);
	if (is_icmp_error(&w->packet) && is_about_known(skb, &w->packet, w->key.endpoint, EGRESS))
		return TC_ACT_UNSPEC;
	return judged(skb, w, endpoint, POD_EGRESS, 0, 0);
}

/* The egress of the pod that sent this, by the packet's destination of now. True in *found: w->origin says who. */
static __always_inline int leave(struct __sk_buff *skb, struct work *w, u32 stamped, bool *found)
{
	enum found origin = find_origin(skb, w, stamped);
	struct endpoint *endpoint;
	u32 ifindex;

	flow_of(&w->key, &w->packet, EGRESS);
	if (origin == ORIGIN_HIDDEN)
		return refuse(w, EGRESS, REASON_NO_ORIGIN);
	if (origin == ORIGIN_NONE)
		return TC_ACT_UNSPEC;
	*found = 1;
	w->key.endpoint = w->origin.endpoint;
	__builtin_memcpy(w->key.local, w->origin.source, 16);
	if (w->key.role < ROLE_ICMP)
		w->key.local_port = w->origin.source_port;
	note_dialled(w);
	ifindex = w->origin.ifindex;
	endpoint = endpoints.lookup(&ifindex);
	if (!endpoint || !endpoint->ready || endpoint->number != w->origin.endpoint)
		return refuse(w, EGRESS, REASON_NOT_READY);
	return judged(skb, w, endpoint, DEVICE_EXIT, 0, 1);
}

int pod_ingress(struct __sk_buff *skb)
{
	u32 ifindex = skb->ifindex, stamped = skb->tc_index;
	struct endpoint *endpoint = endpoints.lookup(&ifindex);
	bool node = !skb->ingress_ifindex, found = 0;
	struct work *w = begin();
	int parsed;

	if (!w)
		return TC_ACT_SHOT;
	/* It would go along into the pod, and out of it again. */
	skb->tc_index = 0;
	parsed = parse(skb, &w->packet, 1);
	if (parsed == PARSED_ARP)
		return TC_ACT_UNSPEC;
	w->key.endpoint = endpoint ? endpoint->number : 0;
	if (parsed != PARSED)
		return unreadable(w, parsed, INGRESS);
	if (is_discovery(&w->packet))
		return TC_ACT_UNSPEC;
	if (!endpoint || !endpoint->ready) {
		flow_of(&w->key, &w->packet, INGRESS);
		return refuse(w, INGRESS, REASON_NOT_READY);
	}
	if (!is_own(endpoint, w->packet.destination) && !is_multicast(w->packet.destination)) {
		count(COUNT_FLOODED);
		return TC_ACT_SHOT;
	}
	if (!node && stamped != STAMP_JUDGED) {
		if (leave(skb, w, stamped, &found) == TC_ACT_SHOT)
			return TC_ACT_SHOT;
		__builtin_memset(&w->key, 0, sizeof(w->key));
		w->key.endpoint = endpoint->number;
	}
	flow_of(&w->key, &w->packet, INGRESS);
	if (is_icmp_error(&w->packet) && is_about_known(skb, &w->packet, w->key.endpoint, INGRESS))
		return TC_ACT_UNSPEC;
	return judged(skb, w, endpoint, POD_INGRESS, node, found);
}

static __always_inline int device_exit(struct __sk_buff *skb, const bool ethernet)
{
	u32 stamped = skb->tc_index;
	bool found = 0;
	struct work *w;
	int parsed;

	if (stamped)
		skb->tc_index = 0;
	/* What the node sends itself, and what it has wrapped for a tunnel, is nobody's egress. */
	if (stamped == STAMP_JUDGED || !skb->ingress_ifindex)
		return TC_ACT_UNSPEC;
	w = begin();
	if (!w)
		return TC_ACT_SHOT;
	parsed = parse(skb, &w->packet, ethernet);
	if (parsed == PARSED_UNPARSABLE && stamped)
		return unreadable(w, parsed, EGRESS);
	if (parsed != PARSED || is_discovery(&w->packet))
		return TC_ACT_UNSPEC;
	return leave(skb, w, stamped, &found);
}

int exit_ethernet(struct __sk_buff *skb)
{
	return device_exit(skb, 1);
}

int exit_tunnel(struct __sk_buff *skb)
{
	return device_exit(skb, 0);
}

/* --- windows that end without another packet ------------------------------ */

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

/*
 * Run by user space (BPF_PROG_RUN) on the idle windows, once no program can
 * still count in them. The row is emitted and the window deleted in one go, so
 * that there is one numbering and no count twice. Returns how many keys of the
 * request were done; fewer than asked: the ring is full.
 */
int close_windows(struct __sk_buff *skb)
{
	u64 now = bpf_ktime_get_ns();
	u32 head[4] = {};
	u32 done = 0;

	if (bpf_skb_load_bytes(skb, 16, head, sizeof(head)))
		return 0;
	for (u32 i = 0; i < CLOSE_KEYS; i++) {
		struct window_key what;

		if (i >= head[2] || bpf_skb_load_bytes(skb, 32 + i * sizeof(what), &what, sizeof(what)))
			break;
		if (!(head[1] ? close_flood(&what, head[0] & 1) : close_flow(&what, head[0] & 1, now)))
			break;
		done++;
	}
	return done;
}
