"""Decides which interface belongs to which pod: pure, from the API's pods and netlink's veths.

Theory of operation. A wrong binding would enforce, and log, one pod's policy for another, so a pod is bound only where
no other pod can be meant:

1. A pod claims each veth that has one of the pod's addresses inside. If one pod claims a veth, they are bound.
2. If two pods claim it, nobody is bound until the API server settles it. That happens when an address is reused while
   the API server still shows it on the old pod. A veth that is bound already stays with its pod meanwhile.
3. A pod that was bound a moment ago claims no other interface, until the API server publishes something new of it or
   ``API_DELAY_S`` has passed. Example: pod old has 10.0.0.1 on interface 3. The interface disappears, the kubelet gives
   10.0.0.1 to pod new on interface 4, and the API server still shows only old with that address. Without this rule,
   interface 4 would be bound to old. It is not enough to look at interfaces that are gone, because an interface that
   is about to go loses its addresses first.
4. A pod cannot claim an interface that appeared after the API server had published the pod's address: the kubelet
   creates the interface first, so a later one belongs to another pod. (The pod's own appeared and disappeared before
   the probe read the links.)

A pod that is bound to nothing is unattached, with a reason in words.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from enrich.model import Name, Pod
from probe.node.netlink import Veth

API_DELAY_S: Final = 5.0
"""How long the API server may take to publish what became of a pod whose interface disappeared."""


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
    """The pod of each interface, by interface index."""
    unattached: Mapping[Name, str] = field(default_factory=dict)
    """Why each other pod has no interface."""
    recent: Mapping[str, RecentBinding] = field(default_factory=dict)
    """By the pod's UID."""


def bind(
    pods: Iterable[Pod],
    veths: Iterable[Veth],
    last: Binding,
    now: float = 0.0,
    appeared_later: Callable[[int, Pod], bool] = lambda _index, _pod: False,
) -> Binding:
    """Bind each pod to the veth that has its addresses inside.

    ``pods`` are the node's own, without terminated pods and those with hostNetwork. ``last`` is the outcome before this
    one, ``now`` the monotonic clock in seconds. ``appeared_later`` returns whether an interface appeared after the API
    server had published the pod's address.
    """
    local = list(pods)
    recent = _recent(local, last, now)
    claims: dict[str, list[Pod]] = {}
    for pod in local:
        for address in pod.ips:
            claims.setdefault(address, []).append(pod)
    bound: dict[int, Pod] = {}
    unattached = {pod.key: _reason(pod, recent) for pod in local}

    def can_claim(pod: Pod, index: int) -> bool:
        before = last.bound.get(index)
        if before is not None and before.uid == pod.uid:
            return True
        return (pod.uid not in recent or recent[pod.uid].index == index) and not appeared_later(index, pod)

    for veth in veths:
        candidates = {
            pod.uid: pod for address in veth.addresses for pod in claims.get(address, ()) if can_claim(pod, veth.index)
        }
        chosen = _choose(candidates, last.bound.get(veth.index))
        if chosen is not None:
            bound[veth.index] = chosen
            unattached.pop(chosen.key, None)
            continue
        for candidate in candidates.values():
            unattached[candidate.key] = (
                f"{len(candidates)} pods claim its address, on interface {veth.name}: waiting for the API server to "
                "show the address on one pod only"
            )
    return Binding(bound, unattached, recent)


def _recent(pods: Iterable[Pod], last: Binding, now: float) -> dict[str, RecentBinding]:
    """Return the bindings of these pods that are recent, and of which the API server has published nothing new."""
    known = {**last.recent, **{pod.uid: RecentBinding(index, pod, now) for index, pod in last.bound.items()}}
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
        return "its interface disappeared, and the API server has not published yet what became of the pod"
    return "no interface has its address yet"


def _choose(candidates: Mapping[str, Pod], before: Pod | None) -> Pod | None:
    if before is not None and before.uid in candidates:
        return candidates[before.uid]
    if len(candidates) == 1:
        return next(iter(candidates.values()))
    return None
