"""Which flows `weir observe` shows: pure functions of a record."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from typing import Final

from enrich.wire.flow import End, Flow, Side
from streams.matching.matcher import Network, policy_names, with_prefix

_SIDES: Final[tuple[Side, ...]] = ("src", "dest")


@dataclass(frozen=True, slots=True)
class Filters:
    """What to show. Every field that is given must fit; of the values of one field any one may fit. In names, ``*``
    stands for any text. A pod is written as ``NAME`` or ``NAMESPACE/NAME``."""

    namespaces: Sequence[str] = ()
    """The namespace of either end."""
    pods: Sequence[str] = ()
    """The pod at either end."""
    sources: Sequence[str] = ()
    """The end that the packets came from: a pod, an address, or a network."""
    destinations: Sequence[str] = ()
    """The end that the packets went to: a pod, an address, or a network."""
    verdicts: Sequence[str] = ()
    """allow, deny, audit."""
    directions: Sequence[str] = ()
    """ingress or egress, as the pod sees it whose policy decided."""
    ports: Sequence[int] = ()
    """The destination port, or the port that was dialled."""
    protocols: Sequence[str] = ()
    """tcp, udp, icmp, ..."""
    labels: Sequence[str] = ()
    """``KEY=VALUE``, or ``KEY``, on either end."""
    policies: Sequence[str] = ()
    """``NAME`` or ``NAMESPACE/NAME`` of a policy that decided, or that isolates the pod."""
    reasons: Sequence[str] = ()
    """policy, default_deny, node, ..."""
    clusters: Sequence[str] = ()
    """The cluster, where several share the topics."""
    subjects: Sequence[str] = ()
    """The pod whose policy decided."""
    workloads: Sequence[str] = ()
    """``NAME`` or ``KIND/NAME`` of what runs the pod at either end. The kind is in lower case."""
    services: Sequence[str] = ()
    """``NAME`` or ``NAMESPACE/NAME`` of the Service that was dialled, or that an address outside belongs to."""
    nodes: Sequence[str] = ()
    """The node that decided."""
    networks: Sequence[str] = ()
    """The address of either end: an address or a network."""
    ids: Sequence[str] = ()
    """The id of the record."""

    def match(self, flow: Flow) -> bool:
        """Return whether every field that is given fits a record."""
        return all(test(flow) for test in self.tests())

    def tests(self) -> Iterator[Callable[[Flow], bool]]:
        """Yield a test of records for each field that is given."""
        yield from self._tests_of_the_decision()
        if self.namespaces:
            yield lambda flow: _fits((end.namespace for end in _ends(flow)), self.namespaces)
        if self.pods:
            yield lambda flow: any(_is_pod(end, pod) for end in _ends(flow) for pod in self.pods)
        if self.subjects:
            yield lambda flow: any(_is_pod(flow.subject, pod) for pod in self.subjects)
        if self.workloads:
            yield lambda flow: any(_is_workload(end, one) for end in _ends(flow) for one in self.workloads)
        if self.sources:
            yield lambda flow: _is_end(flow, "src", self.sources)
        if self.destinations:
            yield lambda flow: _is_end(flow, "dest", self.destinations)
        if self.networks:
            yield lambda flow: any(_is_address(flow.ip(side), one) for side in _SIDES for one in self.networks)
        if self.services:
            yield lambda flow: _fits(_service_names(flow), self.services)
        if self.ports:
            yield lambda flow: not set(self.ports).isdisjoint(flow.ports)
        if self.labels:
            yield lambda flow: any(_has_label(end, label) for end in _ends(flow) for label in self.labels)

    def _tests_of_the_decision(self) -> Iterator[Callable[[Flow], bool]]:
        if self.ids:
            yield lambda flow: flow.id in self.ids
        if self.verdicts:
            yield lambda flow: flow.disposition in self.verdicts
        if self.directions:
            yield lambda flow: flow.direction in self.directions
        if self.protocols:
            yield lambda flow: flow.protocol in self.protocols
        if self.reasons:
            yield lambda flow: flow.reason in self.reasons
        if self.policies:
            yield lambda flow: _fits(policy_names(flow), self.policies)
        if self.nodes:
            yield lambda flow: _fits([flow.node_name], self.nodes)
        if self.clusters:
            yield lambda flow: _fits([flow.cluster], self.clusters)


def _ends(flow: Flow) -> tuple[End, End]:
    return flow.src, flow.dest


def _fits(texts: Iterable[str], patterns: Sequence[str]) -> bool:
    return any(text and fnmatchcase(text, pattern) for text in texts for pattern in patterns)


def _is_pod(end: End, pattern: str) -> bool:
    return bool(end.pod_name) and fnmatchcase(end.pod if "/" in pattern else end.pod_name, pattern)


def _is_workload(end: End, pattern: str) -> bool:
    name = f"{end.workload_kind.lower()}/{end.workload_name}" if "/" in pattern else end.workload_name
    return bool(end.workload_name) and fnmatchcase(name, pattern)


def _service_names(flow: Flow) -> Iterator[str]:
    for service in (flow.dialled.service if flow.dialled else None, flow.src.service, flow.dest.service):
        if service is not None:
            yield from with_prefix(service.namespace, service.name)


def _is_end(flow: Flow, side: Side, patterns: Sequence[str]) -> bool:
    return any(_is_pod(flow.end(side), pattern) or _is_address(flow.ip(side), pattern) for pattern in patterns)


def _is_address(ip: str, pattern: str) -> bool:
    if "/" not in pattern:
        return ip == pattern
    network = _network(pattern)
    # An address of the other family is in no network.
    return network is not None and bool(ip) and ipaddress.ip_address(ip) in network


@cache
def _network(text: str) -> Network | None:
    """Return a network; None for the name of a pod."""
    try:
        return ipaddress.ip_network(text)
    except ValueError:
        return None


def _has_label(end: End, label: str) -> bool:
    key, given, value = label.partition("=")
    labels = end.labels or {}
    return key in labels and (not given or fnmatchcase(labels[key], value))
