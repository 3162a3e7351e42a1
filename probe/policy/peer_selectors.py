"""Terms: the distinct ways in which the rules in force name peers.

A term has a number while a policy in force uses it. Three ways tell nobody of a kind apart: every pod, every IPv4
address, every IPv6 address. They are no part of an identity, so that the first policy to use one changes no address's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from enrich.model import IPBlock, NamedPort, Peer, Protocol, Selector
from enrich.policy.matching import resolve_named_port

ALL_ADDRESSES: Final = {IPBlock("0.0.0.0/0"): 4, IPBlock("::/0"): 6}


@dataclass(frozen=True, slots=True)
class PodPeerSelector:
    """Pods by selectors; ``home`` is the namespace where the namespace selector is absent."""

    home: str
    namespaces: Selector | None
    pods: Selector | None


@dataclass(frozen=True, slots=True)
class NodePeerSelector:
    """Nodes by a selector."""

    nodes: Selector


PeerSelector = PodPeerSelector | NodePeerSelector | IPBlock
PortName = tuple[str, Protocol]
NamedPortNumbers = tuple[tuple[str, Protocol, tuple[int, ...]], ...]
"""(port name, protocol, its numbers on a pod)."""


class PeerTraits(NamedTuple):
    """A peer, as far as a side tells peers apart."""

    terms: frozenset[int]
    pod: bool = False
    family: int = 0
    named: NamedPortNumbers = ()
    own: bool = False
    """The subject's node, on egress."""


class RulePeers(NamedTuple):
    """The peers of a rule. ``terms`` None: anybody."""

    terms: frozenset[int] | None
    pods: bool = False
    families: frozenset[int] = frozenset()

    def hold(self, match: PeerTraits) -> bool:
        """Whether the peer is one of them."""
        if self.terms is None or (self.pods and match.pod) or match.family in self.families:
            return True
        return not self.terms.isdisjoint(match.terms)


class PeerSelectors:
    """The terms in use, each with the number of its users."""

    def __init__(self) -> None:
        self._numbers: dict[PeerSelector, int] = {}
        self._users: dict[int, int] = {}
        self._next = 1
        self.by_number: dict[int, PeerSelector] = {}
        self.digests: dict[int, bytes] = {}
        self._added: set[int] = set()

    def acquire(self, term: PeerSelector) -> int:
        """The term's number; one more user."""
        number = self._numbers.get(term)
        if number is None:
            number = self._numbers[term] = self._next
            self._next += 1
            self._users[number] = 0
            self.by_number[number] = term
            self.digests[number] = hashlib.sha256(repr(term).encode()).digest()[:16]
            self._added.add(number)
        self._users[number] += 1
        return number

    def release(self, numbers: Iterable[int]) -> None:
        """One user less of each; a term is only forgotten when all have come that may want it again."""
        for number in numbers:
            self._users[number] -= 1

    def settle(self) -> tuple[set[int], dict[int, PeerSelector]]:
        """The terms that came and those that are gone since last time."""
        removed = {number: self.by_number[number] for number, users in self._users.items() if not users}
        for number, term in removed.items():
            del self._numbers[term], self._users[number], self.by_number[number], self.digests[number]
        added = self._added - removed.keys()
        gone = {number: term for number, term in removed.items() if number not in self._added}
        self._added = set()
        return added, gone


def peer_selector_of(home: str, peer: Peer) -> PeerSelector:
    """The term by which a rule of a policy in namespace ``home`` names a peer."""
    if peer.ip_block is not None:
        return peer.ip_block
    if peer.nodes is not None:
        return NodePeerSelector(peer.nodes)
    return PodPeerSelector("" if peer.namespaces is not None else home, peer.namespaces, peer.pods)


def selects_every_pod(term: PeerSelector) -> bool:
    """Whether the term selects every pod of a namespace that is known."""
    if not isinstance(term, PodPeerSelector) or term.namespaces is None or term.namespaces.requirements:
        return False
    return term.pods is None or not term.pods.requirements


def resolve_named_ports(ports: Sequence[NamedPort], names: Iterable[PortName]) -> NamedPortNumbers:
    """The numbers that those of the names have which a pod has."""
    found = ((name, protocol, tuple(sorted(resolve_named_port(ports, name, protocol)))) for name, protocol in names)
    return tuple(entry for entry in found if entry[2])
