"""Which interface is which pod's: pure, from what the API says of the pods and what netlink says of the veths."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from enrich.model import Name, Pod
from probe.node.netlink import Veth

NEWS_S: Final = 5.0
"""So long, at most, the API server may take to tell what became of a pod whose interface went."""


@dataclass(frozen=True, slots=True)
class Had:
    """A pod that has an interface, or had one a moment ago."""

    index: int
    pod: Pod
    """As the API told it then."""
    at: float
    """When it was bound last."""


@dataclass(frozen=True, slots=True)
class Binding:
    """The outcome for one node at one moment."""

    bound: Mapping[int, Pod] = field(default_factory=dict)
    """Interface index to pod."""
    waiting: Mapping[Name, str] = field(default_factory=dict)
    """Pods that have no interface yet, with the reason in words."""
    had: Mapping[str, Had] = field(default_factory=dict)
    """By UID."""


def bind(
    pods: Iterable[Pod],
    veths: Iterable[Veth],
    last: Binding,
    now: float = 0.0,
    is_later: Callable[[int, Pod], bool] = lambda _index, _pod: False,
) -> Binding:
    """Bind each pod to the one veth that has its addresses inside.

    ``pods`` are the node's own, without hostNetwork and terminated ones. ``last`` is the last outcome: where an
    address is claimed by two pods at once (an IP used again while the API still shows it on the old pod), an interface
    that is bound stays with its pod, and one that either may have goes to none until that is settled: a wrong binding
    would enforce, and log, one pod's policy for another. For that reason too a pod that had an interface claims no
    other one until the API has told something new of it, or ``now``, in seconds, is a while later. It is not enough to
    look at those that went: an interface that is about to go loses its addresses first.

    ``is_later`` says of an interface that it came after the API had told the pod's address. A kubelet tells it once the
    pod has its interface, so that one is another pod's: this one's came and went before anybody looked.
    """
    local = list(pods)
    had = _had(local, last, now)
    claims: dict[str, list[Pod]] = {}
    for pod in local:
        for address in pod.ips:
            claims.setdefault(address, []).append(pod)
    bound: dict[int, Pod] = {}
    waiting = {pod.key: _why(pod, had) for pod in local}

    def may_have(pod: Pod, index: int) -> bool:
        before = last.bound.get(index)
        if before is not None and before.uid == pod.uid:
            return True
        return (pod.uid not in had or had[pod.uid].index == index) and not is_later(index, pod)

    for veth in veths:
        candidates = {
            pod.uid: pod for address in veth.addresses for pod in claims.get(address, ()) if may_have(pod, veth.index)
        }
        chosen = _choose(candidates, last.bound.get(veth.index))
        if chosen is not None:
            bound[veth.index] = chosen
            waiting.pop(chosen.key, None)
            continue
        for candidate in candidates.values():
            waiting[candidate.key] = f"its address is claimed by {len(candidates)} pods ({veth.name})"
    return Binding(bound, waiting, had)


def _had(pods: Iterable[Pod], last: Binding, now: float) -> dict[str, Had]:
    known = {**last.had, **{pod.uid: Had(at, pod, now) for at, pod in last.bound.items()}}
    return {
        pod.uid: was
        for pod in pods
        if (was := known.get(pod.uid)) and _told(was.pod) == _told(pod) and now - was.at < NEWS_S
    }


def _told(pod: Pod) -> tuple[object, ...]:
    return pod.ips, pod.started_ns, pod.acknowledged_ns


def _why(pod: Pod, had: Mapping[str, Had]) -> str:
    if not pod.ips:
        return "no address yet"
    return (
        "its interface went, and the API has yet to say why" if pod.uid in had else "no interface with its address yet"
    )


def _choose(candidates: Mapping[str, Pod], before: Pod | None) -> Pod | None:
    if before is not None and before.uid in candidates:
        return candidates[before.uid]
    if len(candidates) == 1:
        return next(iter(candidates.values()))
    return None
