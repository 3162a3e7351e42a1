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
 * Every map is pinned below PIN, so that enforcement outlives the probe.
 * What passes returns TC_ACT_UNSPEC: TC_ACT_OK would skip the filters of others.
 *
 * Compile-time settings: PIN, RING_BYTES, FLOWS, ADDRESSES, ROWS, PORTS, WINDOWS, ENDPOINTS.
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

struct decision {
	u32 rule;
	u32 identity;
	u8 verdict;
	u8 reason;
};

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
static __always_inline bool emit(const struct window_key *what, u64 first_ns, u64 last_ns, u32 packets, u32 identity,
				 u8 tcp_flags)
{
	struct verdict *row = events.ringbuf_reserve(sizeof(*row));

	if (!row)
		return 0;
	row->time_ns = first_ns;
	__builtin_memcpy(row->source, what->source, 16);
	__builtin_memcpy(row->destination, what->destination, 16);
	__builtin_memset(row->dialled, 0, 16);
	row->source_port = what->source_port;
	row->destination_port = what->destination_port;
	row->dialled_port = 0;
	row->protocol = what->protocol;
	row->tcp_flags = tcp_flags;
	row->endpoint = what->endpoint;
	row->identity = identity;
	row->rule = what->rule;
	row->count = packets;
	row->span_ms = (u32)((last_ns - first_ns) / 1000000);
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

static __always_inline void denied(struct window_key *what, u64 now, u32 identity, u8 tcp_flags)
{
	u32 generation = setting(CONFIG_GENERATION), active = generation & 1;
	struct window fresh = {.first_ns = now, .last_ns = now, .identity = identity, .tcp_flags = tcp_flags};
	struct window *window = window_of(what, active);
	bool told = window;

	/* Told in the window before, which user space is about to close: goes on. */
	if (!window && window_of(what, !active)) {
		window_make(what, active, &fresh);
		told = 1;
	}
	if (!told && may_tell(what->endpoint, generation) && !window_make(what, active, &fresh)) {
		if (emit(what, now, now, 1, identity, tcp_flags))
			return;
		count(COUNT_DEFERRED);
	}
	window = window_of(what, active);
	if (window)
		add(window, now);
	else
		flood(what, active, now);
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
 * May the pod's end of this flow be connected in this direction? port is the
 * one that is connected to. Reads the side that the epoch chose.
 */
static __always_inline void judge(struct endpoint *endpoint, u32 side, u32 direction, const struct flow_key *flow,
				  bool from_node, struct decision *out)
{
	struct address_key address = {.prefix = 128};
	struct row_key key = {.set = endpoint->set[side], .direction = direction};
	u16 port = direction == EGRESS ? flow->remote_port : flow->local_port;
	u32 kind = KIND_WORLD, entries;
	struct answer *answer;
	struct peer *peer;
	struct row *row;

	__builtin_memcpy(address.address, flow->remote, 16);
	peer = addresses.lookup(&address);
	if (peer) {
		key.identity = peer->identity[side];
		kind = peer->kind[side];
	}
	out->identity = key.identity;
	out->rule = 0;
	out->verdict = VERDICT_ALLOW;
	if (from_node) {
		out->reason = REASON_NODE;
		return;
	}
	if (same(flow->local, flow->remote)) {
		out->reason = REASON_SELF;
		return;
	}
	if (kind >= KINDS)
		kind = KIND_WORLD;
	row = rows.lookup(&key);
	if (row)
		take_row(out, row, &entries);
	else
		take_row(out, &endpoint->defaults[side][direction & 1][kind], &entries);
	if (!entries)
		return;
	struct port_key entry = {
		.prefix = 56, .row = entries, .protocol = flow->protocol, .port = {port >> 8, port & 0xff}};
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

/* --- the way of a packet --------------------------------------------------- */

static __always_inline void describe(struct window_key *what, const struct flow_key *key, const struct packet *packet,
				     u32 direction, u8 verdict, u8 reason, u32 rule)
{
	bool out = direction == EGRESS;

	what->endpoint = key->endpoint;
	what->rule = rule;
	__builtin_memcpy(what->source, out ? key->local : key->remote, 16);
	__builtin_memcpy(what->destination, out ? key->remote : key->local, 16);
	what->source_port = out ? key->local_port : key->remote_port;
	what->destination_port = out ? key->remote_port : key->local_port;
	if (key->role) {
		what->source_port = key->role >= ROLE_ICMP ? 0 : key->local_port;
		what->destination_port = packet->destination_port;
	}
	what->protocol = key->protocol;
	what->verdict = verdict | (out ? 0 : VERDICT_INGRESS);
	what->reason = reason;
	what->flags = 0;
}

static __always_inline int refuse(struct window_key *what, const struct flow_key *key, const struct packet *packet,
				  u32 direction, u8 reason, u64 now)
{
	describe(what, key, packet, direction, VERDICT_DENY, reason, 0);
	denied(what, now, 0, packet->tcp_flags);
	return TC_ACT_SHOT;
}

static __always_inline int handle(struct __sk_buff *skb, const u32 direction)
{
	u64 now = bpf_ktime_get_ns();
	u32 epoch = setting(CONFIG_EPOCH), side = epoch & 1, ifindex = skb->ifindex;
	struct endpoint *endpoint = endpoints.lookup(&ifindex);
	struct fragment_key fragment = {.direction = direction};
	struct packet packet = {};
	struct flow_key key = {};
	struct window_key what = {};
	struct decision decision = {};
	bool from_node = direction == INGRESS && !skb->ingress_ifindex;
	u32 opened = direction;
	struct flow *flow, *known;
	int parsed = parse(skb, &packet);
	bool own;
	u8 pass;

	if (parsed == PARSED_ARP)
		return TC_ACT_UNSPEC;
	if (parsed == PARSED_NOT_IP) {
		count(COUNT_NOT_IP);
		return TC_ACT_SHOT;
	}
	key.endpoint = endpoint ? endpoint->number : 0;
	if (parsed == PARSED_UNPARSABLE) {
		count(COUNT_UNPARSABLE);
		__builtin_memset(&packet, 0, sizeof(packet));
		return refuse(&what, &key, &packet, direction, REASON_UNPARSABLE, now);
	}
	flow_of(&key, &packet, direction);
	own = endpoint && is_own(endpoint, key.local);
	if (is_discovery(&packet)) {
		if (direction == INGRESS)
			return TC_ACT_UNSPEC;
		if (ICMP_TYPE(&packet) == 134 || ICMP_TYPE(&packet) == 137)
			return refuse(&what, &key, &packet, direction, REASON_FORBIDDEN_ND, now);
		if (own || is_link_local(packet.source) || is_zero(packet.source))
			return TC_ACT_UNSPEC;
	}
	if (!endpoint || !endpoint->ready)
		return refuse(&what, &key, &packet, direction, REASON_NOT_READY, now);
	if (direction == EGRESS && !own)
		return refuse(&what, &key, &packet, direction, REASON_SPOOFED, now);
	if (direction == INGRESS && !own && !is_multicast(key.local)) {
		count(COUNT_FLOODED);
		return TC_ACT_SHOT;
	}

	if (packet.fragment != FRAGMENT_NONE) {
		fragment.endpoint = key.endpoint;
		fragment.id = packet.fragment_id;
		fragment.protocol = packet.protocol;
		__builtin_memcpy(fragment.source, packet.source, 16);
		__builtin_memcpy(fragment.destination, packet.destination, 16);
	}
	if (packet.fragment == FRAGMENT_LATER) {
		u8 *verdict = fragments.lookup(&fragment);

		if (!verdict)
			return refuse(&what, &key, &packet, direction, REASON_FRAGMENT, now);
		if (*verdict)
			return TC_ACT_UNSPEC;
		count(COUNT_FRAGMENT_DROPPED);
		return TC_ACT_SHOT;
	}
	if (is_icmp_error(&packet) && is_about_known(skb, &packet, key.endpoint, direction))
		return TC_ACT_UNSPEC;

	known = flow = flows.lookup(&key);
	if (flow && (is_over(flow, packet.protocol, now) || !continues(flow, &packet, direction)))
		flow = 0;
	if (flow) {
		opened = flow->direction & 1;
		from_node = flow->state & FLOW_FROM_NODE;
		decision.rule = flow->rule;
		decision.identity = flow->identity;
		decision.verdict = flow->verdict;
		decision.reason = flow->reason;
	} else if ((packet.tcp_flags & (TCP_SYN | TCP_ACK)) == (TCP_SYN | TCP_ACK)) {
		opened = !direction;
	}
	if (!flow || flow->epoch != epoch) {
		judge(endpoint, side, opened, &key, from_node && opened == INGRESS, &decision);
		if (decision.verdict != VERDICT_ALLOW && !flow && opened == direction &&
		    may_be_older(endpoint, &packet, now)) {
			struct decision other = {};

			judge(endpoint, side, !opened, &key, 0, &other);
			if (other.verdict == VERDICT_ALLOW) {
				decision = other;
				opened = !opened;
			}
		}
	}
	pass = decision.verdict != VERDICT_DENY;
	if (flow) {
		if (flow->epoch != epoch) {
			flow->rule = decision.rule;
			flow->identity = decision.identity;
			flow->verdict = decision.verdict;
			flow->reason = decision.reason;
			flow->epoch = epoch;
		}
		touch(flow, &packet, direction, now);
	} else if (pass) {
		struct flow fresh = {
			.last_ns = now,
			.epoch = epoch,
			.rule = decision.rule,
			.identity = decision.identity,
			.sequence = packet.sequence,
			.direction = opened,
			.verdict = decision.verdict,
			.reason = decision.reason,
			.state = from_node ? FLOW_FROM_NODE : 0,
		};

		if (opened != direction || (packet.protocol == PROTOCOL_TCP && !is_new_tcp(&packet))) {
			fresh.state |= FLOW_REPLIED;
			if (decision.verdict == VERDICT_ALLOW)
				decision.reason = REASON_ADOPTED;
		}
		if (!known)
			take_place(&key, now);
		if (flows.update(&key, &fresh)) {
			count(COUNT_CONNTRACK_FULL);
			return refuse(&what, &key, &packet, opened, REASON_MAP_FULL, now);
		}
		describe(&what, &key, &packet, opened, decision.verdict, decision.reason, decision.rule);
		if (!emit(&what, now, now, 1, decision.identity, packet.tcp_flags))
			count(COUNT_RING_FULL);
	}
	if (packet.fragment == FRAGMENT_FIRST)
		fragments.update(&fragment, &pass);
	if (pass)
		return TC_ACT_UNSPEC;
	describe(&what, &key, &packet, opened, decision.verdict, decision.reason, decision.rule);
	denied(&what, now, decision.identity, packet.tcp_flags);
	return TC_ACT_SHOT;
}

int pod_egress(struct __sk_buff *skb)
{
	return handle(skb, EGRESS);
}

int pod_ingress(struct __sk_buff *skb)
{
	return handle(skb, INGRESS);
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
	if (packets && !emit(what, window->first_ns, window->last_ns, packets, window->identity, window->tcp_flags))
		return 0;
	/* Goes on without being told at once again, until it was silent for a whole window. */
	if (now - window->last_ns < setting(CONFIG_WINDOW_NS)) {
		carried.first_ns = window->last_ns;
		carried.last_ns = window->last_ns;
		carried.identity = window->identity;
		carried.tcp_flags = window->tcp_flags;
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
	if (!emit(what, window->first_ns, window->last_ns, window->count, 0, 0))
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
