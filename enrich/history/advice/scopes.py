"""Whom a recommended rule is about: pods by labels, or addresses. And whether a rule for them allows a connection."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from enrich.history.advice.traffic import Question, inside, network
from enrich.history.distinctions import Network
from enrich.history.profile import PORT_PROTOCOLS
from enrich.history.stand_ins import stand_in
from enrich.label_selector import Selector, namespace_selector
from enrich.model import IPBlock, Name, Node, Peer, PolicyPort, Protocol
from enrich.policy import selectors
from enrich.policy.matching import Direction, port_matches
from enrich.wire.journal import Profile

EVERY_POD = Selector()


@dataclass(frozen=True, slots=True)
class PodScope:
    """Pods of one namespace, by labels."""

    namespace: str
    selector: Selector

    def has(self, profile: Profile) -> bool:
        """Return whether pods of this profile belong to the scope."""
        return (
            profile.namespace == self.namespace
            and not profile.host_network
            and selectors.matches(self.selector, profile.labels)
        )

    def peers(self, own_namespace: str) -> tuple[Peer, ...]:
        """Return the scope as peers of a rule in a policy of ``own_namespace``."""
        if self.namespace == own_namespace:
            return (Peer(pods=self.selector),)
        own = namespace_selector(self.namespace)
        return (Peer(namespaces=own, pods=None if self.selector == EVERY_POD else self.selector),)


@dataclass(frozen=True, slots=True)
class BlockScope:
    """Addresses outside the cluster, or those of a node."""

    blocks: tuple[str, ...]
    excepts: tuple[str, ...] = ()
    coarse: bool = False
    node: str = ""

    def has(self, networks: Iterable[Network]) -> bool:
        """Return whether all of some networks belong to the scope, as far as it does not make exceptions in them."""
        found = list(networks)
        return bool(found) and all(
            any(inside(one, network(block)) for block in self.blocks) and not self._is_excepted(one) for one in found
        )

    def touches(self, networks: Iterable[Network]) -> bool:
        """Return whether one of some networks belongs to the scope."""
        return any(self.has([one]) for one in networks)

    def _is_excepted(self, found: Network) -> bool:
        return any(inside(found, network(hole)) for hole in self.excepts)

    def peers(self, _own_namespace: str) -> tuple[Peer, ...]:
        """Return the scope as peers of a rule."""
        return tuple(
            Peer(ip_block=IPBlock(block, tuple(e for e in self.excepts if inside(network(e), network(block)))))
            for block in self.blocks
        )


PeerScope = PodScope | BlockScope


@dataclass(frozen=True, slots=True)
class Permit:
    """One peer scope with ports, for the pods of a scope: the least that a rule can allow."""

    subjects: PodScope
    direction: Direction
    peer: PeerScope
    ports: tuple[PolicyPort, ...]
    questions: tuple[Question, ...]
    """What it was made for."""


class Ground:
    """What is known of the pods and nodes that scopes are about."""

    def __init__(self, profiles: Mapping[str, Profile], nodes: Mapping[Name, Node]) -> None:
        self.profiles = profiles
        self.nodes = nodes
        self.by_namespace: defaultdict[str, list[tuple[str, Profile]]] = defaultdict(list)
        """The profiles that policies of a namespace can select, by number."""
        for number, profile in sorted(profiles.items()):
            if not profile.host_network:
                self.by_namespace[profile.namespace].append((number, profile))
        self._names: dict[tuple[PodScope, Protocol, int], str | None] = {}

    def networks(self, question: Question) -> tuple[Network, ...]:
        """Return the addresses of a peer that is not a pod; none of a pod, and of a node that is not there."""
        peer = question.peer
        if peer.block:
            return (network(peer.block),)
        return self.node_networks(peer.node)

    def node_networks(self, name: str) -> tuple[Network, ...]:
        """Return the addresses of a node; none of one that is not there."""
        node = self.nodes.get(Name("", name)) if name else None
        return tuple(map(network, node.all_ips)) if node else ()

    def allows(self, permit: Permit, question: Question, *, in_part: bool = False) -> bool:
        """Return whether a rule made of the permit allows a connection; ``in_part``: any address of the peer's."""
        if permit.direction is not question.direction or not permit.subjects.has(self.profiles[question.subject]):
            return False
        return self._has_port(permit, question) and self.has_peer(permit.peer, question, in_part=in_part)

    def has_peer(self, scope: PeerScope, question: Question, *, in_part: bool = False) -> bool:
        """Return whether the peer of a question belongs to a scope."""
        if isinstance(scope, PodScope):
            return bool(question.peer.profile) and scope.has(self.profiles[question.peer.profile])
        if question.peer.profile:
            return False
        networks = self.networks(question)
        return scope.touches(networks) if in_part else scope.has(networks)

    def _has_port(self, permit: Permit, question: Question) -> bool:
        if question.protocol not in PORT_PROTOCOLS:
            return False
        ingress = question.direction is Direction.INGRESS
        number = question.subject if ingress else question.peer.profile
        destination = stand_in(self.profiles[number], number) if number else None
        protocol = Protocol(question.protocol)
        return any(port_matches(port, destination, protocol, question.port) for port in permit.ports)

    def common_name(self, scope: PodScope, protocol: Protocol, port: int) -> str | None:
        """Return the name that all pods of a scope give a port, if it means this port alone in each of them."""
        key = (scope, protocol, port)
        if key not in self._names:
            self._names[key] = self._common_name(*key)
        return self._names[key]

    def _common_name(self, scope: PodScope, protocol: Protocol, port: int) -> str | None:
        names: set[str] | None = None
        for _, profile in self.by_namespace[scope.namespace]:
            if not scope.has(profile):
                continue
            own = [one for one in profile.ports if one.protocol == protocol]
            found = {one.name for one in own if one.port == port}
            found -= {one.name for one in own if one.port != port}
            names = found if names is None else names & found
        return min(names) if names else None
