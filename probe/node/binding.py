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
6. A kept interface is surely another pod's if exactly one other pod claims it, that pod claims no other interface, and
   the pod that it was bound to has terminated or is not in the API. Example: the mirror pod of a static pod is deleted
   and recreated, with another UID and the same interface and address. As long as the API server shows a pod as running,
   no other pod's address makes that pod's interface another's: the pod may have added the address itself.

A pod that is bound to nothing is unattached, with a reason in words.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

import msgspec

from enrich.model import Name, Pod
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
    recent: Mapping[str, RecentBinding] = field(default_factory=dict)
    """By the pod's UID."""

    @property
    def incomplete(self) -> bool:
        """Whether a pod that runs has no interface with its address inside. It may get one without any event."""
        return bool(self.unattached) or _ADDRESS_LOST in self.kept.values()


def bind(
    pods: Iterable[Pod],
    veths: Iterable[Veth],
    last: Binding,
    now: float = 0.0,
    appeared_later: Callable[[int, Pod], bool] = lambda _index, _pod: False,
    remains: Callable[[int], bool] = lambda _index: True,
) -> Binding:
    """Bind each pod to the veth that has its addresses inside, and keep the veths that were bound.

    ``pods`` are the node's own, without those with hostNetwork; terminated ones claim nothing. ``last`` is the outcome
    before this one, ``now`` the monotonic clock in seconds. ``appeared_later`` returns whether an interface appeared
    after the API server had published the pod's address. ``remains`` returns whether the interface with this index is
    the one that ``last`` means: the kernel may give the index of a removed interface to a new one.
    """
    known = {pod.uid: pod for pod in pods}
    running = {uid: pod for uid, pod in known.items() if not pod.terminated}
    found = list(veths)
    recent = _recent(running.values(), last, now)
    holders = {veth.index: last.bound[veth.index] for veth in found if veth.index in last.bound and remains(veth.index)}
    candidates = _candidates(running, found, holders, recent, appeared_later)
    claimed = Counter(uid for claimants in candidates.values() for uid in claimants)
    unattached = {pod.key: _reason(pod, recent) for pod in running.values()}
    bound: dict[int, Pod] = {}
    kept_pods: dict[int, Pod] = {}
    kept: dict[int, str] = {}
    for veth in found:
        claimants, holder = candidates[veth.index], holders.get(veth.index)
        may_move = holder is None or holder.uid not in running
        chosen = _choose(claimants, holder, claimed, may_move=may_move)
        if chosen is not None:
            bound[veth.index] = chosen
            continue
        if holder is not None:
            kept_pods[veth.index] = _newest(holder, known)
            kept[veth.index] = _reason_kept(known.get(holder.uid))
        for claimant in claimants.values():
            unattached[claimant.key] = _conflict(veth, len(claimants), holder)
    for pod in bound.values():
        unattached.pop(pod.key, None)
    for pod in kept_pods.values():
        if pod.uid in running:
            unattached.pop(pod.key, None)
    # Kept ones first: where two interfaces have one address, the maps take the last, which is the API server's.
    order = sorted(kept_pods, key=lambda index: kept_pods[index].uid in running)
    return Binding({index: kept_pods[index] for index in order} | bound, kept, unattached, recent)


def _candidates(
    running: Mapping[str, Pod],
    veths: Iterable[Veth],
    holders: Mapping[int, Pod],
    recent: Mapping[str, RecentBinding],
    appeared_later: Callable[[int, Pod], bool],
) -> dict[int, dict[str, Pod]]:
    """Return the pods that claim each veth, by UID."""
    by_address: dict[str, list[Pod]] = {}
    for pod in running.values():
        for address in pod.ips:
            by_address.setdefault(address, []).append(pod)

    def can_claim(pod: Pod, index: int) -> bool:
        if index in holders and holders[index].uid == pod.uid:
            return True
        return (pod.uid not in recent or recent[pod.uid].index == index) and not appeared_later(index, pod)

    return {
        veth.index: {
            pod.uid: pod
            for address in veth.addresses
            for pod in by_address.get(address, ())
            if can_claim(pod, veth.index)
        }
        for veth in veths
    }


def _recent(pods: Iterable[Pod], last: Binding, now: float) -> dict[str, RecentBinding]:
    """Return the bindings of these pods that are recent, and of which the API server has published nothing new.

    A kept interface does not count: a pod whose sandbox was remade claims the new interface while the old one is there.
    """
    known = dict(last.recent)
    known |= {pod.uid: RecentBinding(index, pod, now) for index, pod in last.bound.items() if index not in last.kept}
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
    claimants: Mapping[str, Pod], holder: Pod | None, claimed: Mapping[str, int], *, may_move: bool
) -> Pod | None:
    """Return the pod whose interface this surely is now; None if that is nobody, or if nothing new is sure."""
    if holder is not None and holder.uid in claimants:
        return claimants[holder.uid]
    if len(claimants) != 1:
        return None
    (only,) = claimants.values()
    return only if holder is None or (may_move and claimed[only.uid] == 1) else None
