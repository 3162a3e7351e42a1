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
#include "maps.h"
#include "rows.h"
#include "judge.h"
#include "connections.h"
#include "stamps.h"
#include "recent.h"
#include "admit.h"
#include "fragments.h"

/* plain: 0, or the packet as it is known already. */
static __always_inline struct work *begin(const struct packet *plain)
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
	struct endpoint *endpoint;
	struct packet packet = {};
	struct work *w;
	bool plain, own;
	int parsed;

	/* Whatever the pod has written there. */
	skb->tc_index = STAMP_JUDGED;
	plain = parse_plain(skb, &packet);
	if (plain && passed_lately(skb, &packet, EGRESS))
		return TC_ACT_UNSPEC;
	w = begin(plain ? &packet : 0);
	if (!w)
		return TC_ACT_SHOT;
	parsed = plain ? PARSED : parse(skb, &w->packet, 1);
	if (parsed == PARSED_ARP)
		return TC_ACT_UNSPEC;
	endpoint = endpoints.lookup(&ifindex);
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
	enum found origin;
	struct endpoint *endpoint;
	u32 ifindex;

	/* Not whom it is for. */
	w->key.endpoint = 0;
	origin = find_origin(skb, w, stamped);
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
	bool node = !skb->ingress_ifindex, found = 0, plain;
	struct packet packet = {};
	struct endpoint *endpoint;
	struct work *w;
	int parsed;

	/* It would go along into the pod, and out of it again. */
	skb->tc_index = 0;
	/* What nobody has judged on its way out is judged here first. */
	plain = parse_plain(skb, &packet);
	if (plain && (node || stamped == STAMP_JUDGED) && passed_lately(skb, &packet, INGRESS))
		return TC_ACT_UNSPEC;
	w = begin(plain ? &packet : 0);
	if (!w)
		return TC_ACT_SHOT;
	parsed = plain ? PARSED : parse(skb, &w->packet, 1);
	if (parsed == PARSED_ARP)
		return TC_ACT_UNSPEC;
	endpoint = endpoints.lookup(&ifindex);
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
	struct packet packet = {};
	bool found = 0, plain;
	struct work *w;
	int parsed;

	if (stamped)
		skb->tc_index = 0;
	/* What the node sends itself, and what it has wrapped for a tunnel, is nobody's egress. */
	if (stamped == STAMP_JUDGED || !skb->ingress_ifindex)
		return TC_ACT_UNSPEC;
	plain = ethernet && parse_plain(skb, &packet);
	w = begin(plain ? &packet : 0);
	if (!w)
		return TC_ACT_SHOT;
	parsed = plain ? PARSED : parse(skb, &w->packet, ethernet);
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
