"""Which flows `weir observe` shows: pure functions of a record."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

Flow = Mapping[str, Any]
"""One record of the flows topic, as JSON (``enrich/schemas/flow.schema.json``)."""


@dataclass(frozen=True, slots=True)
class Filters:
    """What to show. Each field that is given must fit; of the values of one field any one may. ``*`` stands for any
    text in names. A pod is ``name`` or ``namespace/name``."""

    namespaces: Sequence[str] = ()
    """Of either end."""
    pods: Sequence[str] = ()
    """Either end."""
    sources: Sequence[str] = ()
    """The end that the packet came from: a pod, or an address."""
    destinations: Sequence[str] = ()
    """The end that it went to."""
    verdicts: Sequence[str] = ()
    """allow, deny, audit."""
    directions: Sequence[str] = ()
    """ingress, egress: seen from the pod whose policy was judged."""
    ports: Sequence[int] = ()
    """Destination port, or the port that was dialled."""
    protocols: Sequence[str] = ()
    """tcp, udp, icmp, ..."""
    labels: Sequence[str] = ()
    """``key=value``, or ``key``: on either end."""
    policies: Sequence[str] = ()
    """Name, or namespace/name, of a policy that decided or that isolates."""
    reasons: Sequence[str] = ()
    """policy, default_deny, node, and so on."""
    except_reasons: Sequence[str] = ()
    """None of these: `node` leaves out what a node asks its own pods, which is mostly kubelet's probes."""

    def match(self, flow: Flow) -> bool:
        """Whether this record is to be shown."""
        return all(test(flow) for test in self._tests())

    def _tests(self) -> Iterable[Callable[[Flow], bool]]:
        if self.verdicts:
            yield lambda flow: flow.get("disposition") in self.verdicts
        if self.directions:
            yield lambda flow: _connection(flow).get("direction") in self.directions
        if self.namespaces:
            yield lambda flow: _fits((end.get("namespace") for end in _ends(flow)), self.namespaces)
        if self.pods:
            yield lambda flow: any(_is_pod(end, wanted) for end in _ends(flow) for wanted in self.pods)
        if self.sources:
            yield lambda flow: _is_end(flow, "src", self.sources)
        if self.destinations:
            yield lambda flow: _is_end(flow, "dest", self.destinations)
        if self.ports:
            yield lambda flow: not set(self.ports).isdisjoint(_ports(flow))
        if self.protocols:
            yield lambda flow: _connection(flow).get("protocol") in self.protocols
        if self.labels:
            yield lambda flow: any(_has_label(end, wanted) for end in _ends(flow) for wanted in self.labels)
        if self.policies:
            yield lambda flow: _fits(_policy_names(flow), self.policies)
        if self.reasons:
            yield lambda flow: flow.get("reason") in self.reasons
        if self.except_reasons:
            yield lambda flow: flow.get("reason") not in self.except_reasons


def _connection(flow: Flow) -> Mapping[str, Any]:
    found: Mapping[str, Any] = flow.get("connection", {})
    return found


def _ends(flow: Flow) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    return flow.get("src", {}), flow.get("dest", {})


def _fits(texts: Iterable[Any], patterns: Sequence[str]) -> bool:
    return any(text and fnmatchcase(text, pattern) for text in texts for pattern in patterns)


def _is_pod(end: Mapping[str, Any], wanted: str) -> bool:
    name = end.get("pod_name")
    if not name:
        return False
    return fnmatchcase(f"{end.get('namespace')}/{name}" if "/" in wanted else name, wanted)


def _is_end(flow: Flow, side: str, wanted: Sequence[str]) -> bool:
    address = _connection(flow).get(f"{side}_ip")
    return any(_is_pod(flow.get(side, {}), one) or address == one for one in wanted)


def _ports(flow: Flow) -> set[Any]:
    return {_connection(flow).get("dest_port"), flow.get("dialled", {}).get("port")}


def _has_label(end: Mapping[str, Any], wanted: str) -> bool:
    key, given, value = wanted.partition("=")
    labels = end.get("labels", {})
    return key in labels and (not given or labels[key] == value)


def _policy_names(flow: Flow) -> Iterable[str]:
    for policy in (*flow.get("policies", ()), *flow.get("isolated_by", ())):
        yield policy["name"]
        if policy.get("namespace"):
            yield f"{policy['namespace']}/{policy['name']}"
