"""Which interface is which pod's: pure, from what the API says of the pods and what netlink says of the veths."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from enrich.model import Name, Pod
from probe.netlink import Veth


@dataclass(frozen=True, slots=True)
class Binding:
    """The outcome for one node at one moment."""

    bound: Mapping[int, Pod] = field(default_factory=dict)
    """Interface index to pod."""
    waiting: Mapping[Name, str] = field(default_factory=dict)
    """Pods that have no interface yet, with the reason in words."""


def bind(pods: Iterable[Pod], veths: Iterable[Veth], before: Mapping[int, Pod]) -> Binding:
    """Bind each pod to the one veth that has its addresses inside.

    ``pods`` are the node's own, without hostNetwork and terminated ones. ``before`` is the last outcome: where an
    address is claimed by two pods at once (an IP used again while the API still shows it on the old pod), an interface
    that is bound stays with its pod, and a new one goes to no pod until the claim is settled: a wrong binding would
    enforce, and log, one pod's policy for another.
    """
    local = list(pods)
    claims: dict[str, list[Pod]] = {}
    for pod in local:
        for address in pod.ips:
            claims.setdefault(address, []).append(pod)
    bound: dict[int, Pod] = {}
    waiting = {pod.key: "no address yet" if not pod.ips else "no interface with its address yet" for pod in local}
    for veth in veths:
        candidates = {pod.uid: pod for address in veth.addresses for pod in claims.get(address, ())}
        chosen = _choose(candidates, before.get(veth.index))
        if chosen is not None:
            bound[veth.index] = chosen
            waiting.pop(chosen.key, None)
            continue
        for candidate in candidates.values():
            waiting[candidate.key] = f"its address is claimed by {len(candidates)} pods ({veth.name})"
    return Binding(bound, waiting)


def _choose(candidates: Mapping[str, Pod], before: Pod | None) -> Pod | None:
    if before is not None and before.uid in candidates:
        return candidates[before.uid]
    if len(candidates) == 1:
        return next(iter(candidates.values()))
    return None
