/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The tc programs: network policy at the host side of a pod's veth, and at every
 * other device for what NAT hides from it. Each new verdict becomes an event.
 *
 * The path of a packet, with the file that explains each step:
 *
 *   address.h      addresses of both families
 *   packet.h       parse the headers
 *   classify.h     what a parsed packet is
 *   recent.h       pass, if the same connection passed a moment ago
 *   own_frames.h   a pod's frames have its own source, and no tags
 *   neighbours.h   ARP and neighbour discovery pass, if they are proper
 *   (here)         find the endpoint of the interface, check the source address
 *   sources.h      no other device brings in a pod's packet
 *   fragments.h    a later fragment follows its first one
 *   encapsulation.h  packets inside packets do not go to nodes
 *   errors.h       an ICMP error follows the connection that it is about
 *   connections.h  find the connection
 *   budgets.h      who pays for what a packet stores
 *   adoption.h     without an entry, a mid-flow packet may belong to an older one
 *   places.h       how many connections a pod may have
 *   judge.h        without a current verdict, ask policy; the epoch switch
 *   admit.h        put the two together
 *   stamps.h       hand the packet's origin to the exit hook
 *   unready.h      without an endpoint, only the own node can be reached
 *   logging.h      cut the verdict if it is not to be logged
 *   limits.h       cut it if the node has logged too many in this second
 *   verdicts.h     emit the event, or count it in a deny window
 *   ends.h         count what connections carry, and report it
 *   sweep.h        report connections that have ended without a packet
 *
 * pod_egress is attached to the ingress of the pod's host-side veth, pod_ingress to
 * its egress, exit_ethernet and exit_tunnel to the egress of all other devices,
 * entry_tunnel to the ingress of devices that unwrap packets, and entry_device to that of
 * the others.
 *
 * A packet that passes returns TC_ACT_UNSPEC, so that other filters on the device
 * still run; TC_ACT_OK would skip them.
 *
 * Compile-time settings: PIN, RING_BYTES, CONNECTIONS, ADDRESSES, POLICY_ENTRIES, PORT_ENTRIES, DENIED_FLOWS,
 * ENDPOINTS, FRAGMENTS, LOCAL_ADDRESSES, CPU_STRIDE, POSSIBLE_CPUS; ENDS, if connection ends are reported.
 */
#include <uapi/linux/bpf.h>
#include <uapi/linux/if_ether.h>
#include <uapi/linux/ip.h>
#include <uapi/linux/ipv6.h>
#include <uapi/linux/pkt_cls.h>

#include "event.h"
#include "layout.h"
#include "address.h"
#include "packet.h"
#include "classify.h"
#include "maps.h"
#include "judge.h"
#include "budgets.h"
#include "logging.h"
#include "limits.h"
#include "ends.h"
#include "verdicts.h"
#include "connections.h"
#include "adoption.h"
#include "places.h"
#include "sweep.h"
#include "own_frames.h"
#include "neighbours.h"
#include "stamps.h"
#include "recent.h"
#include "admit.h"
#include "errors.h"
#include "encapsulation.h"
#include "unready.h"
#include "fragments.h"
#include "sources.h"

/* Initialize the scratch memory. plain: the parsed packet, or 0. */
static __always_inline struct work *start_work(struct __sk_buff *skb, const struct packet *plain)
{
	u32 zero = 0;
	struct work *w = works.lookup(&zero);

	if (!w)
		return 0;
	if (plain)
		w->packet = *plain;
	else
		__builtin_memset(&w->packet, 0, sizeof(w->packet));
	__builtin_memset(&w->key, 0, sizeof(w->key));
	__builtin_memset(w->dialled, 0, sizeof(w->dialled));
	w->dialled_port = 0;
	w->unnamed = 0;
	w->from = skb->ingress_ifindex;
	w->sender = SENDER_SELF;
	w->source_port = 0;
	w->refused = 0;
	w->unstored = 0;
	w->is_later = 0;
#ifdef ENDS
	w->counted = 0;
	w->closes = 0;
	w->logged.is_waiting = 0;
#endif
	w->now = bpf_ktime_get_ns();
	w->epoch = setting(CONFIG_EPOCH);
	return w;
}

/* What judge_exit() has left to do comes after what the rest of the program has. */
static __always_inline void leave_for_later(struct work *w)
{
	w->later_key = w->key;
	w->later_fresh = w->fresh;
	w->is_later = w->unstored;
	w->unstored = 0;
#ifdef ENDS
	w->later_logged = w->logged;
	w->logged.is_waiting = 0;
#endif
}

static __always_inline bool resume(struct work *w)
{
	w->key = w->later_key;
	w->fresh = w->later_fresh;
	w->sender = SENDER_SELF;
	w->unstored = w->is_later;
	w->is_later = 0;
#ifdef ENDS
	w->logged = w->later_logged;
#endif
	return w->unstored;
}

/* End the run of a program that has refused the packet. */
static __always_inline int log_refused(struct work *w, int action)
{
	log_denied(w);
	return action;
}

/* End a program run: do what the steps have left to do. twice: perhaps with two connections (leave_for_later). */
static __always_inline int finish(struct work *w, int action, const bool twice)
{
#pragma clang loop unroll(disable)
	for (int i = 0; i <= twice; i++) {
		if (i && !resume(w))
			break;
#ifdef ENDS
		bool is_stored = w->unstored;

#endif
		if (w->unstored && !store_connection(w)) {
			count(COUNT_CONNECTIONS_FULL);
#ifdef ENDS
			if (w->logged.is_waiting)
				count(COUNT_ENDS_UNPLACED);
#endif
			action = refuse(w, w->fresh.direction & 1, REASON_MAP_FULL);
		}
#ifdef ENDS
		else if (!i && is_stored)
			find_counted(w, &w->key, w->fresh.place);
#endif
		if (w->refused) {
			w->refused = 0;
			log_denied(w);
		}
	}
	return action;
}

/* End the run of a pod's hook: count the packet if it passes. */
static __always_inline int passed(struct __sk_buff *skb, struct work *w, int action, u32 direction)
{
#ifdef ENDS
	if (action == TC_ACT_UNSPEC)
		count_passing(skb, w, direction);
#endif
	return action;
}

static __always_inline int drop_unreadable(struct work *w, int parsed, u32 direction)
{
	if (parsed == PARSED_NOT_IP) {
		count(COUNT_NOT_IP);
		return TC_ACT_SHOT;
	}
	count(COUNT_UNPARSABLE);
	__builtin_memset(&w->packet, 0, sizeof(w->packet));
	return refuse(w, direction, REASON_UNPARSABLE);
}

/* is_proper: by is_own_arp() if a pod sends it. */
static __always_inline int pass_arp(bool is_proper)
{
	if (is_proper)
		return TC_ACT_UNSPEC;
	count(COUNT_NEIGHBOUR_DROPPED);
	return TC_ACT_SHOT;
}

/* Judge a packet that the pod sends. plain: it has been parsed. */
static __always_inline int judge_egress(struct __sk_buff *skb, struct work *w, bool plain)
{
	u32 ifindex = skb->ifindex;
	struct endpoint *endpoint;
	enum frame frame;
	int parsed;
	bool own;

	parsed = plain ? PARSED : parse(skb, &w->packet, 1);
	endpoint = endpoint_at(w, ifindex);
	frame = frame_of(skb);
	if (frame == FRAME_FOREIGN && parsed < PARSED_NOT_IP)
		count(COUNT_FOREIGN_FRAME);
	if (frame == FRAME_UNKNOWN && (parsed == PARSED_ARP || (parsed == PARSED && is_discovery(&w->packet)))) {
		/* They have no verdict, and whoever sends them repeats them: an interface sends some when it is set up. */
		count(COUNT_NEIGHBOUR_DROPPED);
		return TC_ACT_SHOT;
	}
	if (parsed == PARSED_ARP)
		return frame == FRAME_OWN ? pass_arp(is_own_arp(skb, w, endpoint)) : TC_ACT_SHOT;
	w->key.endpoint = endpoint ? endpoint->number : 0;
	if (parsed != PARSED)
		return drop_unreadable(w, parsed, EGRESS);
	connection_key_of(&w->key, &w->packet, EGRESS);
	if (frame != FRAME_OWN)
		return refuse(w, EGRESS, frame == FRAME_UNKNOWN ? REASON_NOT_READY : REASON_SPOOFED);
	own = endpoint && is_own(endpoint, w->key.local);
	if (is_discovery(&w->packet)) {
		if (!is_proper_discovery(skb, w, endpoint)) {
			count(COUNT_NEIGHBOUR_DROPPED);
			return refuse(w, EGRESS, REASON_FORBIDDEN_ND);
		}
		if (own || is_link_local(w->packet.source) || is_zero(w->packet.source) ||
		    (!endpoint && is_unclaimed(w, w->packet.source, ifindex))) {
			/* A neighbour may have any address. If the packet is routed after all, the exit judges it. */
			if (!is_link_local(w->packet.destination) && !is_multicast(w->packet.destination)) {
				fill_origin(skb, w);
				w->origin.confirm = 0;
				stamp(skb, w);
			}
			return TC_ACT_UNSPEC;
		}
	}
	if (!endpoint)
		return pass_to_node(skb, w) ? TC_ACT_UNSPEC : refuse(w, EGRESS, REASON_NOT_READY);
	if (!own)
		return refuse(w, EGRESS, REASON_SPOOFED);
	return judge_packet(skb, w, endpoint, POD_EGRESS, 0, 0);
}

int pod_egress(struct __sk_buff *skb)
{
	struct packet packet = {};
	struct work *w;
	bool plain;

	/* The pod may have written anything there. */
	skb->tc_index = STAMP_JUDGED;
	plain = parse_plain(skb, &packet);
	/* The kernel has taken a VLAN tag out of the frame before. */
	if (plain && !skb->vlan_present && passed_recently(skb, &packet, EGRESS))
		return TC_ACT_UNSPEC;
	w = start_work(skb, plain ? &packet : 0);
	if (!w)
		return TC_ACT_SHOT;
	return passed(skb, w, finish(w, judge_egress(skb, w, plain), 0), EGRESS);
}

/*
 * Judge the egress of the pod that sent this packet, by its current destination. *found is set if w->origin says who
 * sent it.
 */
static __always_inline int judge_exit(struct __sk_buff *skb, struct work *w, u32 stamped, bool *found)
{
	enum found origin;
	struct endpoint *endpoint;
	u32 ifindex;

	/* The endpoint is the sender, not the receiver. */
	w->key.endpoint = 0;
	origin = find_origin(skb, w, stamped);
	connection_key_of(&w->key, &w->packet, EGRESS);
	if (origin == ORIGIN_HIDDEN)
		return refuse(w, EGRESS, REASON_NO_ORIGIN);
	if (origin == ORIGIN_NONE)
		return TC_ACT_UNSPEC;
	*found = 1;
	w->key.endpoint = w->origin.endpoint;
	__builtin_memcpy(w->key.local, w->origin.source, 16);
	if (w->key.role < ROLE_ICMP)
		w->key.local_port = w->origin.source_port;
	fill_dialled(w);
	ifindex = w->origin.ifindex;
	endpoint = endpoint_at(w, ifindex);
	if (!endpoint || endpoint->number != w->origin.endpoint)
		return refuse(w, EGRESS, REASON_NOT_READY);
	return judge_packet(skb, w, endpoint, DEVICE_EXIT, 0, 1);
}

/* Judge a packet that the pod receives. plain: it has been parsed. */
static __always_inline int judge_ingress(struct __sk_buff *skb, struct work *w, bool plain, u32 stamped)
{
	bool node = !skb->ingress_ifindex, found = 0;
	u32 ifindex = skb->ifindex, sender;
	struct endpoint *endpoint;
	int parsed;

	w->sender = stamped == STAMP_JUDGED && !node ? SENDER_JUDGED : SENDER_OUTSIDE;
	parsed = plain ? PARSED : parse(skb, &w->packet, 1);
	if (parsed == PARSED_ARP)
		return pass_arp(is_proper_arp(skb, w->packet.transport, &sender));
	endpoint = endpoint_at(w, ifindex);
	w->key.endpoint = endpoint ? endpoint->number : 0;
	if (parsed != PARSED)
		return drop_unreadable(w, parsed, INGRESS);
	if (is_discovery(&w->packet)) {
		if (node || is_short(skb, &w->packet))
			return TC_ACT_UNSPEC;
		count(COUNT_NEIGHBOUR_DROPPED);
		connection_key_of(&w->key, &w->packet, INGRESS);
		return refuse(w, INGRESS, REASON_FORBIDDEN_ND);
	}
	if (!endpoint) {
		if (node)
			return TC_ACT_UNSPEC;
		connection_key_of(&w->key, &w->packet, INGRESS);
		return refuse(w, INGRESS, REASON_NOT_READY);
	}
	if (!is_own(endpoint, w->packet.destination) && !is_multicast(w->packet.destination)) {
		count(COUNT_FLOODED);
		return TC_ACT_SHOT;
	}
	if (!node && stamped == STAMP_JUDGED) {
		if (is_forged(skb, w))
			return refuse_source(skb, w);
		__builtin_memset(&w->key, 0, sizeof(w->key));
		w->key.endpoint = endpoint->number;
	}
	w->unnamed = stamped == STAMP_UNNAMED;
	if (!node && stamped != STAMP_JUDGED && !w->unnamed) {
		w->sender = SENDER_SELF;
		if (judge_exit(skb, w, stamped, &found) == TC_ACT_SHOT)
			return TC_ACT_SHOT;
		leave_for_later(w);
		w->sender = found ? SENDER_ORIGIN : SENDER_OUTSIDE;
		__builtin_memset(&w->key, 0, sizeof(w->key));
		w->key.endpoint = endpoint->number;
	}
	connection_key_of(&w->key, &w->packet, INGRESS);
	return judge_packet(skb, w, endpoint, POD_INGRESS, node, found);
}

int pod_ingress(struct __sk_buff *skb)
{
	bool node = !skb->ingress_ifindex, plain;
	u32 stamped = skb->tc_index;
	struct packet packet = {};
	struct work *w;

	/* Else the stamp would travel into the pod and out of it again. */
	skb->tc_index = 0;
	/* A packet whose egress has not been judged must take the slow path, which judges that first. */
	plain = parse_plain(skb, &packet);
	if (plain && (node || stamped == STAMP_JUDGED) && passed_recently(skb, &packet, INGRESS))
		return TC_ACT_UNSPEC;
	w = start_work(skb, plain ? &packet : 0);
	if (!w)
		return TC_ACT_SHOT;
	return passed(skb, w, finish(w, judge_ingress(skb, w, plain, stamped), 1), INGRESS);
}

static __always_inline int device_exit(struct __sk_buff *skb, const bool ethernet)
{
	u32 stamped = skb->tc_index;
	struct packet packet = {};
	bool found = 0, plain;
	struct work *w;
	int parsed;

	if (stamped)
		skb->tc_index = 0;
	/* Packets of the node itself, and those that it has encapsulated, are not a pod's egress. */
	if (stamped == STAMP_JUDGED || stamped == STAMP_UNNAMED || !skb->ingress_ifindex)
		return TC_ACT_UNSPEC;
	plain = ethernet && parse_plain(skb, &packet);
	w = start_work(skb, plain ? &packet : 0);
	if (!w)
		return TC_ACT_SHOT;
	parsed = plain ? PARSED : parse(skb, &w->packet, ethernet);
	if (parsed == PARSED_UNPARSABLE && stamped)
		return log_refused(w, drop_unreadable(w, parsed, EGRESS));
	if (parsed != PARSED || is_discovery(&w->packet))
		return TC_ACT_UNSPEC;
	return finish(w, judge_exit(skb, w, stamped, &found), 0);
}

int exit_ethernet(struct __sk_buff *skb)
{
	return device_exit(skb, 1);
}

int exit_tunnel(struct __sk_buff *skb)
{
	return device_exit(skb, 0);
}

/* A packet that comes in by a device that is not a pod's: it has no stamp, and no local pod's source. */
static __always_inline int device_entry(struct __sk_buff *skb)
{
	struct work *w;

	if (skb->tc_index)
		skb->tc_index = 0;
	if (!has_foreign_source(skb))
		return TC_ACT_UNSPEC;
	if (setting(CONFIG_LOCAL_SOURCE)) {
		skb->tc_index = STAMP_UNNAMED;
		return TC_ACT_UNSPEC;
	}
	w = start_work(skb, 0);
	return w ? log_refused(w, refuse_source(skb, w)) : TC_ACT_SHOT;
}

int entry_device(struct __sk_buff *skb)
{
	return device_entry(skb);
}

/* A packet that a tunnel device gives out. Nor may the packet that it was inside have been a local pod's. */
int entry_tunnel(struct __sk_buff *skb)
{
	u32 stamped = skb->tc_index;
	struct origin *origin;
	struct work *w;

	if (!stamped || setting(CONFIG_ENCAPSULATION))
		return device_entry(skb);
	w = start_work(skb, 0);
	if (!w)
		return TC_ACT_SHOT;
	if (stamped == STAMP_JUDGED)
		return log_refused(w, refuse_encapsulation(w));
	origin = unwrapped_origin(skb, w, stamped);
	if (!origin)
		return device_entry(skb);
	describe_unwrapped(w, origin);
	return log_refused(w, refuse_encapsulation(w));
}

/*
 * Run by user space (BPF_PROG_RUN) with a close_request, once no program can still
 * count in the idle maps. Return how many keys of the request are closed; fewer than
 * requested means that the ring is full.
 */
int close_windows(struct __sk_buff *skb)
{
	u64 now = bpf_ktime_get_ns();
	u32 head[4] = {};
	u32 done = 0;

	if (bpf_skb_load_bytes(skb, 16, head, sizeof(head)))
		return 0;
	for (u32 i = 0; i < CLOSE_KEYS; i++) {
		struct verdict_key key;

		if (i >= head[2] || bpf_skb_load_bytes(skb, 32 + i * sizeof(key), &key, sizeof(key)))
			break;
		if (!(head[1] ? close_flood(&key, head[0] & 1, now) : close_window(&key, head[0] & 1, now)))
			break;
		done++;
	}
	return done;
}

/*
 * Run by user space (BPF_PROG_RUN) with an expire_request: empty the places whose
 * connections have expired. Return how many are in use. It keeps nothing in works that packets use, because
 * on older kernels one may interrupt it. With ENDS, connections that have ended are reported; if the request says
 * that it is the last one, all are, and how many of them the ring had no room for is returned.
 */
int expire_places(struct __sk_buff *skb)
{
	u64 now = bpf_ktime_get_ns();
	u32 head[4] = {}, used = 0;
	struct place old;
#ifdef ENDS
	u32 third = 2;
	struct work *w = works.lookup(&third);

	if (!w)
		return 0;
	w->now = now;
	w->used = w->unreported = 0;
#endif

	if (bpf_skb_load_bytes(skb, 16, head, sizeof(head)))
		return 0;
#pragma clang loop unroll(disable)
	for (u32 i = 0; i < EXPIRE_PLACES; i++) {
		u32 number = head[0] + i;
		struct place *place = places.lookup(&number);

		if (!place)
			continue;
		old = *place;
#ifdef ENDS
		if (!look_at_traffic(w, &old, number, head[1]))
			w->unreported++;
#endif
		if (occupancy_of(&old, number, now) == VACANT)
			vacate(&old, number, now, 0);
		else
#ifdef ENDS
			w->used++;
#else
			used++;
#endif
	}
#ifdef ENDS
	used = head[1] ? w->unreported : w->used;
#endif
	return used;
}

/*
 * Run by user space (BPF_PROG_RUN) with an add_request, by one thread at a time: store an entry, in place of any other
 * under its key, with a place that the account pays for. Return 0 if there is no room.
 */
int add_connection(struct __sk_buff *skb)
{
	u32 second = 1;
	struct work *w = works.lookup(&second);
	struct connection *known;

	if (!w || bpf_skb_load_bytes(skb, __builtin_offsetof(struct add_request, key), &w->key, sizeof(w->key)) ||
	    bpf_skb_load_bytes(skb, __builtin_offsetof(struct add_request, connection), &w->fresh,
			       sizeof(w->fresh)) ||
	    bpf_skb_load_bytes(skb, __builtin_offsetof(struct add_request, payer), &w->payer, sizeof(w->payer)))
		return 0;
	w->sender = w->payer.account == ACCOUNT_OWN ? SENDER_ORIGIN : SENDER_OUTSIDE;
	w->origin.endpoint = w->payer.endpoint;
	w->now = bpf_ktime_get_ns();
	known = connections.lookup(&w->key);
	w->fresh.place = known ? known->place : 0;
	/* The origin of the earlier entry, which its hash names, goes with this one. */
	if (known && !w->fresh.hash)
		w->fresh.hash = known->hash;
	return store_connection(w);
}
