"""Decides which interface belongs to which pod: pure, from the API's pods and netlink's veths.

Theory of operation. A wrong binding would enforce, and log, one pod's policy for another, so a pod is bound only where
no other pod can be meant:

1. A pod claims each veth that has one of the pod's addresses inside. If one pod claims a veth, they are bound.
2. If two pods claim it, no pod is bound until the API server settles it. That happens when an address is reused while
   the API server still shows it on the old pod. A veth that is bound already stays with its pod meanwhile.
3. A pod that was bound a moment ago claims no other interface, until the API server publishes something new of it or
   ``API_DELAY_S`` has passed. Example: pod old has 10.0.0.1 on interface 3. The interface disappears, the kubelet gives
   10.0.0.1 to pod new on interface 4, and the API server still shows only old with that address. Without this rule,
   interface 4 would be bound to old. It is not enough to look at interfaces that are gone, because an interface that
   is about to go loses its addresses first.
4. A pod cannot claim an interface that appeared after the API server had published the pod's address: the kubelet
   creates the interface first, so a later one belongs to another pod. (The pod's own appeared and disappeared before
   the probe read the links.)
5. An interface that is bound stays bound until it is gone or surely another pod's. If its pod does not claim it any
   more, it is *kept*: the pod's newest known object goes on to be enforced there, with the addresses that it had. That
   happens when the Pod object is deleted by force while the containers run on, when the phase becomes Succeeded or
   Failed, when a pod with NET_ADMIN moves its address to ``lo`` or sets its interface down, and when a sandbox (gVisor)
   takes the address into its own network stack.
6. A kept interface is surely another pod's if exactly one other pod claims it, that pod claims no other interface and
   has no address that the interface was not bound with, and the pod that it was bound to has terminated or is not in
   the API. Example: the mirror pod of a static pod is deleted and recreated, with another UID and the same interface
   and address. As long as the API server shows a pod as running, no other pod's address makes that pod's interface
   another's: the pod may have added the address itself. A pod that was deleted by force may do so, too, which is why
   an address that was not there before moves nothing.
7. What the CNI plugin says is certain (``assigned``). It beats every claim and every earlier binding, and the pod
   claims no interface by its address.

:mod:`probe.node.claims` has the rules for claims, and for what two claims to one interface or address mean. A pod that
is bound to nothing is unattached, and an interface that has a pod's address inside and is not bound is closed,
each with a reason in words.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

import msgspec

from enrich.model import Name, Pod
from probe.node.claims import CONFLICT, Claims, claims_of, conflicts, drop_impossible, namespaces, second_interfaces
from probe.node.netlink import Veth

API_DELAY_S: Final = 5.0
"""How long the API server may take to publish the new state of a pod whose interface disappeared."""
_ADDRESS_LOST: Final = "the pod's address is no longer inside the interface"


@dataclass(frozen=True, slots=True)
class RecentBinding:
    """The interface that a pod is bound to, or was bound to a moment ago."""

    index: int
    pod: Pod
    """The pod as the API server had published it then."""
    bound_at: float
    """When it was last bound, in seconds of the monotonic clock."""


@dataclass(frozen=True, slots=True)
class Binding:
    """The outcome for one node at one moment."""

    bound: Mapping[int, Pod] = field(default_factory=dict)
    """The pod of each interface, by interface index. Where several have one address, the last one has it by the API."""
    kept: Mapping[int, str] = field(default_factory=dict)
    """Why those interfaces in ``bound`` are kept that their pod does not claim any more."""
    unattached: Mapping[Name, str] = field(default_factory=dict)
    """Why each other pod has no interface."""
    closed: Mapping[int, str] = field(default_factory=dict)
    """Why each interface is closed that has a pod's address inside and is not bound."""
    second: frozenset[int] = frozenset()
    """Those interfaces in ``bound`` that are not the first of their pod."""
    recent: Mapping[str, RecentBinding] = field(default_factory=dict)
    """By the pod's UID."""

    @property
    def incomplete(self) -> bool:
        """Whether an interface may become a pod's without any event: addresses inside it change silently."""
        return bool(self.unattached or self.closed) or _ADDRESS_LOST in self.kept.values()


def bind(
    pods: Iterable[Pod],
    veths: Iterable[Veth],
    last: Binding,
    now: float = 0.0,
    appeared_later: Callable[[int, Pod], bool] = lambda _index, _pod: False,
    remains: Callable[[int], bool] = lambda _index: True,
    assigned: Mapping[int, Pod] | None = None,
    is_taken: Callable[[str], bool] = lambda _address: False,
) -> Binding:
    """Bind each pod to the veth that has its addresses inside, and keep the veths that were bound.

    ``pods`` are the node's own, without those with hostNetwork; terminated ones claim nothing. ``last`` is the outcome
    before this one, ``now`` the monotonic clock in seconds. ``appeared_later`` returns whether an interface appeared
    after the API server had published the pod's address. ``remains`` returns whether the interface with this index is
    the one that ``last`` means: the kernel may give the index of a removed interface to a new one. ``assigned`` has the
    pods that the CNI plugin has named, with the addresses that it gave them. ``is_taken`` returns whether an address is
    known to be somebody's, so that a pod cannot have it on a second interface.
    """
    known = {pod.uid: pod for pod in pods}
    running = {uid: pod for uid, pod in known.items() if not pod.terminated}
    found = list(veths)
    recent = _recent(running.values(), last, now)
    certain = {v.index: _newest(assigned[v.index], known) for v in found if assigned and v.index in assigned}
    holders = _holders(found, last, remains, certain)
    claims = _claims(running, found, holders, certain, recent, appeared_later)
    unsure = conflicts(claims, holders, {veth.index: veth.name for veth in found})
    claimed = Counter(uid for claimants in claims.values() for uid in claimants)
    unattached = {pod.key: _reason(pod, recent) for pod in running.values()}
    bound, kept_pods = dict(certain), dict[int, Pod]()
    kept = {index: _reason_kept(known.get(pod.uid)) for index, pod in certain.items() if pod.uid not in running}
    for veth in found:
        claimants, holder = claims[veth.index], holders.get(veth.index)
        if veth.index in certain:
            continue
        chosen = None if veth.index in unsure else _choose(claimants, holder, claimed, running)
        if chosen is not None:
            bound[veth.index] = chosen
            continue
        if holder is not None:
            kept_pods[veth.index] = _newest(holder, known)
            kept[veth.index] = _reason_kept(known.get(holder.uid))
        for claimant in claimants.values():
            unattached[claimant.key] = unsure.get(veth.index) or _conflict(veth, len(claimants), holder)
    kept_pods, second = _with_second(found, last, bound, kept_pods, is_taken)
    for pod in (*bound.values(), *(pod for pod in kept_pods.values() if pod.uid in running)):
        unattached.pop(pod.key, None)
    # Kept and second ones first: where two interfaces have one address, the maps take the last, the API server's.
    order = sorted(kept_pods, key=lambda index: kept_pods[index].uid in running)
    everything = {index: kept_pods[index] for index in order} | bound
    kept = {index: reason for index, reason in kept.items() if index not in second}
    closed = _closed(found, everything, running, unsure)
    return Binding(everything, kept, unattached, closed, second, recent)


def _holders(
    veths: Iterable[Veth], last: Binding, remains: Callable[[int], bool], certain: Mapping[int, Pod]
) -> dict[int, Pod]:
    """Return the pod that each veth was bound to, as its first interface, unless the CNI plugin says otherwise."""
    known = list(veths)
    uids, tenants = {pod.uid for pod in certain.values()}, namespaces(known, certain)
    found = {}
    for veth in known:
        holder = last.bound.get(veth.index)
        if holder is None or veth.index in certain or veth.index in last.second or not remains(veth.index):
            continue
        if holder.uid not in uids or tenants.get(veth.namespace) == holder.uid:
            found[veth.index] = holder
    return found


def _claims(
    running: Mapping[str, Pod],
    veths: Iterable[Veth],
    holders: Mapping[int, Pod],
    certain: Mapping[int, Pod],
    recent: Mapping[str, RecentBinding],
    appeared_later: Callable[[int, Pod], bool],
) -> Claims:
    uids = {pod.uid for pod in certain.values()}
    free = {uid: pod for uid, pod in running.items() if uid not in uids}

    def may_claim(index: int, pod: Pod) -> bool:
        return (
            index not in certain
            and (pod.uid not in recent or recent[pod.uid].index == index)
            and not appeared_later(index, pod)
        )

    return drop_impossible(claims_of(free, veths, {**holders, **certain}, may_claim), holders)


def _with_second(
    veths: Iterable[Veth],
    last: Binding,
    bound: Mapping[int, Pod],
    kept: Mapping[int, Pod],
    is_taken: Callable[[str], bool],
) -> tuple[dict[int, Pod], frozenset[int]]:
    """Return ``kept`` with the second interfaces of pods, and which they are.

    One whose pod does not claim it, while the pod has another in the same namespace, was a second one before a restart.
    """
    known = list(veths)
    first = namespaces(known, bound)
    before = {veth.index for veth in known if veth.index in kept and first.get(veth.namespace) == kept[veth.index].uid}
    left = {index: pod for index, pod in kept.items() if index not in before}
    second = second_interfaces(known, {**left, **bound}, is_taken)
    # The other end may be in another namespace by now: a second interface is kept like a first one.
    for veth in known:
        if veth.index in last.second and veth.index not in bound and veth.index not in second:
            second[veth.index] = last.bound[veth.index]
    return second | left, frozenset(second)


def _closed(
    veths: Iterable[Veth], bound: Mapping[int, Pod], running: Mapping[str, Pod], unsure: Mapping[int, str]
) -> dict[int, str]:
    """Return why each veth is closed that has the address of a pod inside and is not bound."""
    owners = {address: pod for pod in running.values() for address in pod.ips}
    bound_uids = {pod.uid for pod in bound.values()}
    found = {}
    for veth in veths:
        owner = next((owners[address] for address in sorted(veth.addresses) if address in owners), None)
        if owner is None or veth.index in bound:
            continue
        if owner.uid in bound_uids:
            found[veth.index] = f"{CONFLICT}: pod {owner.key}, which has another interface, has its address"
        else:
            found[veth.index] = (
                unsure.get(veth.index) or f"not_ready: the address of pod {owner.key} is inside, and may be stale"
            )
    return found


def _recent(pods: Iterable[Pod], last: Binding, now: float) -> dict[str, RecentBinding]:
    """Return the bindings of these pods that are recent, and of which the API server has published nothing new.

    A kept interface does not count: a pod whose sandbox was remade claims the new interface while the old one is there.
    """
    known = dict(last.recent)
    known |= {
        pod.uid: RecentBinding(index, pod, now)
        for index, pod in last.bound.items()
        if index not in last.kept and index not in last.second
    }
    return {
        pod.uid: before
        for pod in pods
        if (before := known.get(pod.uid))
        and _published(before.pod) == _published(pod)
        and now - before.bound_at < API_DELAY_S
    }


def _published(pod: Pod) -> tuple[object, ...]:
    """Return what the API server changes when a pod gets another interface."""
    return pod.ips, pod.started_ns, pod.acknowledged_ns


def _reason(pod: Pod, recent: Mapping[str, RecentBinding]) -> str:
    if not pod.ips:
        return "the API server has not published an address of it yet"
    if pod.uid in recent:
        return "its interface disappeared, and the API server has not published the pod's new state yet"
    return "no interface has its address yet"


def _reason_kept(pod: Pod | None) -> str:
    if pod is None:
        return "the API server no longer has the pod"
    return "the pod has terminated" if pod.terminated else _ADDRESS_LOST


def _conflict(veth: Veth, claimants: int, holder: Pod | None) -> str:
    if holder is not None:
        return f"interface {veth.name} has its address, but was bound to pod {holder.key}, to which it stays bound"
    return (
        f"{claimants} pods claim its address, on interface {veth.name}: waiting for the API server to show the address "
        "on one pod only"
    )


def _newest(holder: Pod, known: Mapping[str, Pod]) -> Pod:
    """Return the newest object of a kept interface's pod, with the addresses that the interface was bound with."""
    newest = known.get(holder.uid, holder)
    if newest.ips == holder.ips:
        return newest
    changed = msgspec.structs.replace(newest, ips=holder.ips)
    return holder if changed == holder else changed


def _choose(
    claimants: Mapping[str, Pod], holder: Pod | None, claimed: Mapping[str, int], running: Mapping[str, Pod]
) -> Pod | None:
    """Return the pod whose interface this surely is now; None if that is nobody, or if nothing new is sure."""
    if holder is not None and holder.uid in claimants:
        return claimants[holder.uid]
    if len(claimants) != 1:
        return None
    (only,) = claimants.values()
    if holder is None:
        return only
    may_move = holder.uid not in running and claimed[only.uid] == 1 and set(only.ips) <= set(holder.ips)
    return only if may_move else None
