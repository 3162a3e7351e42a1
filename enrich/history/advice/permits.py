"""Finds for each allowed connection the widest rule of a style that allows no connection that was denied.

Connections are first grouped by the widest scopes of the style, such as (workload, port, workload). If the rule of a
group would allow a connection that was denied, the group is split by the next narrower scopes, down to single profiles.
What even those do not tell apart is left out: a denial that was seen is never allowed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Final, Literal, NamedTuple

from enrich.history.advice.label_choice import choose
from enrich.history.advice.scopes import EVERY_POD, BlockScope, Ground, PeerScope, Permit, PodScope
from enrich.history.advice.traffic import Question, inside, network
from enrich.model import Labels, PolicyPort, Protocol
from enrich.policy.matching import Direction
from enrich.wire.journal import Profile

Style = Literal["workload", "namespace"]
Width = Literal["namespace", "workload", "profile"]
_LADDERS: Final[Mapping[Style, tuple[tuple[Width, Width], ...]]] = {
    "workload": (("workload", "workload"), ("workload", "profile"), ("profile", "workload"), ("profile", "profile")),
    "namespace": (
        ("namespace", "namespace"),
        ("namespace", "workload"),
        ("workload", "namespace"),
        ("workload", "workload"),
        ("workload", "profile"),
        ("profile", "workload"),
        ("profile", "profile"),
    ),
}
"""How wide the scopes of subject and peer are, the widest first."""
_DNS_PROTOCOLS: Final = (Protocol.UDP, Protocol.TCP)
_DNS_PORT: Final = 53
_DNS_NAMES: Final = ("dns", "dns-tcp")
"""The names of CoreDNS' ports in every manifest of it that we know."""


class WorkloadKey(NamedTuple):
    """What runs pods; of a pod that nothing runs, its profile."""

    namespace: str
    kind: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind}/{self.name}" if self.kind else f"pods of profile {self.name}"


def workload_of(number: str, profile: Profile) -> WorkloadKey:
    """Return the workload of a profile."""
    if not profile.workload_name:
        return WorkloadKey(profile.namespace, "", number)
    return WorkloadKey(profile.namespace, profile.workload_kind or "Workload", profile.workload_name)


class _Group(NamedTuple):
    """Connections that one permit is to allow."""

    subjects: tuple[str, ...]
    direction: Direction
    peer: tuple[str, ...]
    protocols: tuple[int, ...]
    port: int


class PermitMaker:
    """Makes permits; see the module."""

    def __init__(self, ground: Ground, style: Style, denied: Iterable[Question]) -> None:
        self.undecidable: list[Question] = []
        """Connections that no labels tell from denied ones."""
        self._ground = ground
        self._ladder = _LADDERS[style]
        self._denied: defaultdict[tuple[Direction, int, int], list[Question]] = defaultdict(list)
        for question in denied:
            self._denied[question.direction, question.protocol, question.port].append(question)
        self._scopes: dict[tuple[str, ...], PodScope] = {}

    def make(self, questions: Iterable[Question], step: int = 0, *, whole_dns: bool = True) -> Iterator[Permit]:
        """Yield permits that together allow all the connections, except those that are :attr:`undecidable`."""
        if step == len(self._ladder):
            self.undecidable.extend(questions)
            return
        groups: defaultdict[_Group, list[Question]] = defaultdict(list)
        for question in questions:
            groups[self._group_of(question, step, whole_dns=whole_dns)].append(question)
        for group, members in groups.items():
            permit = self._permit(group, members)
            if not self._allows_denied(permit):
                yield permit
            elif len(group.protocols) > 1:
                yield from self.make(members, step, whole_dns=False)
            else:
                yield from self.make(members, step + 1, whole_dns=whole_dns)

    def scope(self, number: str, width: Width) -> PodScope:
        """Return the scope of this width that a profile belongs to."""
        return self._scope(self._key(number, width))

    def _key(self, number: str, width: Width) -> tuple[str, ...]:
        profile = self._ground.profiles[number]
        match width:
            case "namespace":
                return (width, profile.namespace)
            case "workload":
                return (width, *workload_of(number, profile))
            case "profile":
                return (width, profile.namespace, number)

    def _group_of(self, question: Question, step: int, *, whole_dns: bool) -> _Group:
        subjects, peers = self._ladder[step]
        peer = question.peer
        if peer.profile:
            key = self._key(peer.profile, peers)
        else:
            key = ("node", peer.node) if peer.node else ("coarse" if peer.coarse else "block", peer.block)
        protocols = _DNS_PROTOCOLS if whole_dns and self._is_dns(question) else (question.protocol,)
        return _Group(self._key(question.subject, subjects), question.direction, key, protocols, question.port)

    def _is_dns(self, question: Question) -> bool:
        """Return whether the connection is one with the cluster's DNS: an answer that is too long for UDP is asked for
        again by TCP (RFC 7766), which may not have happened in the window."""
        server = question.peer.profile if question.direction is Direction.EGRESS else question.subject
        profile = self._ground.profiles.get(server)
        return (
            profile is not None
            and question.protocol in _DNS_PROTOCOLS
            and profile.namespace == "kube-system"
            and profile.labels.get("k8s-app") == "kube-dns"
            and question.port in {_DNS_PORT, *(one.port for one in profile.ports if one.name in _DNS_NAMES)}
        )

    def _scope(self, key: tuple[str, ...]) -> PodScope:
        found = self._scopes.get(key)
        if found is None:
            found = self._scopes[key] = self._make_scope(key)
        return found

    def _make_scope(self, key: tuple[str, ...]) -> PodScope:
        width, namespace = key[0], key[1]
        if width == "namespace":
            return PodScope(namespace, EVERY_POD)
        within: list[Labels] = []
        others: list[Labels] = []
        for number, profile in self._ground.by_namespace[namespace]:
            is_within = self._key(number, "workload" if width == "workload" else "profile") == key
            (within if is_within else others).append(profile.labels)
        return PodScope(namespace, choose(within, others).selector)

    def _permit(self, group: _Group, members: list[Question]) -> Permit:
        subjects = self._scope(group.subjects)
        peer = self._peer(group, subjects)
        destination = subjects if group.direction is Direction.INGRESS else peer
        ports = []
        for number in group.protocols:
            protocol, port = Protocol(number), group.port
            # DNS keeps its numbers: readers know 53, and not the names of its ports.
            named = isinstance(destination, PodScope) and len(group.protocols) == 1
            name = self._ground.common_name(destination, protocol, port) if named else None  # type: ignore[arg-type]
            ports.append(PolicyPort(protocol, name or port))
        return Permit(subjects, group.direction, peer, tuple(ports), tuple(members))

    def _peer(self, group: _Group, subjects: PodScope) -> PeerScope:
        width, name = group.peer[0], group.peer[-1]
        if width in ("namespace", "workload", "profile"):
            return self._scope(group.peer)
        if width == "node":
            return BlockScope(tuple(str(one) for one in self._ground.node_networks(name)), node=name)
        if width == "block":
            return BlockScope((str(network(name)),))
        return BlockScope((str(network(name)),), self._holes(name, group, subjects), coarse=True)

    def _holes(self, block: str, group: _Group, subjects: PodScope) -> tuple[str, ...]:
        """Return the addresses inside a coarse block that were denied: the block stands for others."""
        outer = network(block)
        return tuple(
            sorted(
                {
                    str(one)
                    for protocol in group.protocols
                    for question in self._denied[group.direction, protocol, group.port]
                    if subjects.has(self._ground.profiles[question.subject])
                    for one in self._ground.networks(question)
                    if one != outer and inside(one, outer)
                }
            )
        )

    def _allows_denied(self, permit: Permit) -> bool:
        """Return whether a rule made of the permit would allow a connection that was denied."""
        asked = {(Protocol(port.protocol), question.port) for port in permit.ports for question in permit.questions}
        return any(
            self._ground.allows(permit, question, in_part=True)
            for protocol, port in asked
            for question in self._denied[permit.direction, protocol, port]
        )
