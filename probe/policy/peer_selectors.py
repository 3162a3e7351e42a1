"""Peer selectors: the distinct ways in which the rules in force name their peers, each with a number.

A peer selector is a pod selector in a namespace, a node selector, or the IP blocks of one rule. Two rules that name
the same pods or nodes share one. Its number lives as long as a policy in force uses it, and is valid in this process
only; the ledger never sees it.

The IP blocks of a rule are one selector, a CIDR list, because nothing can tell them apart: the rule treats them alike.
A list is known by its place (policy, direction, rule), not by its blocks. So a block that is added to a list of 30,000
changes the identity of that block's addresses only.

Three peer selectors get no number in an identity, because they select everything of one kind: every pod, every IPv4
address and every IPv6 address. So the first policy that allows 0.0.0.0/0 changes the identity of no address.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from enrich.label_selector import Selector
from enrich.model import IPBlock, NamedPort, Peer, Protocol
from enrich.policy.matching import Direction, resolve_named_port
from enrich.wire.batch import PolicyRef

ALL_ADDRESSES: Final = {IPBlock("0.0.0.0/0"): 4, IPBlock("::/0"): 6}
"""The IP blocks that contain a whole family, and which."""


@dataclass(frozen=True, slots=True)
class PodPeerSelector:
    """Pods by namespace and labels. If ``namespaces`` is None, the pods of the namespace ``home``."""

    home: str
    namespaces: Selector | None
    pods: Selector | None


@dataclass(frozen=True, slots=True)
class NodePeerSelector:
    """Nodes by labels."""

    nodes: Selector


@dataclass(frozen=True, slots=True)
class CidrList:
    """The IP blocks of one rule. Lists of the same rule are equal, also if the rule has other blocks now."""

    rule: PolicyRef
    direction: Direction
    blocks: frozenset[IPBlock] = field(compare=False, repr=False)


PeerSelector = PodPeerSelector | NodePeerSelector | CidrList | IPBlock
"""An IPBlock stands for itself only if it is one of ALL_ADDRESSES; all others are in the CIDR lists of their rules."""
PortName = tuple[str, Protocol]
NamedPortNumbers = tuple[tuple[str, Protocol, tuple[int, ...]], ...]
"""(port name, protocol, the numbers that a pod's container ports have under this name)."""


class PeerTraits(NamedTuple):
    """Everything about a peer that a rule could depend on. Peers with equal traits share an identity."""

    selectors: frozenset[int]
    """Numbers of the peer selectors that select the peer."""
    pod: bool = False
    """Whether the peer is a pod of a known namespace, and so selected by "every pod"."""
    family: int = 0
    """4 or 6; 0 if rules cannot depend on it."""
    named_ports: NamedPortNumbers = ()
    own_node: bool = False
    """Whether the peer is the subject's node. Policy never blocks traffic between a pod and its node."""


class RulePeers(NamedTuple):
    """The peers of one rule. ``selectors`` None matches every peer."""

    selectors: frozenset[int] | None
    every_pod: bool = False
    families: frozenset[int] = frozenset()

    def contains(self, traits: PeerTraits) -> bool:
        """Return whether a peer with these traits is one of them."""
        if self.selectors is None or (self.every_pod and traits.pod) or traits.family in self.families:
            return True
        return not self.selectors.isdisjoint(traits.selectors)


class PeerSelectors:
    """The peer selectors that policies in force use, counted by use.

    :meth:`release` only decrements. :meth:`settle` frees what is no longer used, so that a selector which the same
    update releases with an old policy and acquires with a new one keeps its number, and no identity changes.
    """

    def __init__(self) -> None:
        self._numbers: dict[PeerSelector, int] = {}
        self._users: dict[int, int] = {}
        self._next = 1
        self.by_number: dict[int, PeerSelector] = {}
        self.digests: dict[int, bytes] = {}
        """Content hashes, by which the ledger knows an identity across restarts."""
        self._added: set[int] = set()
        self._replaced: dict[int, PeerSelector] = {}
        """CIDR lists as they were at the last :meth:`settle`, of those that have other blocks now."""

    def acquire(self, selector: PeerSelector) -> int:
        """Add one reference and return the selector's number. A CIDR list replaces the former list of its rule."""
        number = self._numbers.get(selector)
        if number is None:
            number = self._numbers[selector] = self._next
            self._next += 1
            self._users[number] = 0
            self.by_number[number] = selector
            self.digests[number] = hashlib.sha256(repr(selector).encode()).digest()[:16]
            self._added.add(number)
        elif isinstance(selector, CidrList):
            self._replaced.setdefault(number, self.by_number[number])
            self.by_number[number] = selector
            # The key too, so that the former blocks are freed.
            del self._numbers[selector]
            self._numbers[selector] = number
        self._users[number] += 1
        return number

    def release(self, numbers: Iterable[int]) -> None:
        """Release one reference to each selector."""
        for number in numbers:
            self._users[number] -= 1

    def settle(self) -> tuple[set[int], dict[int, PeerSelector]]:
        """Free the unreferenced selectors. Return the numbers added, and the selectors freed, since the last call.

        The number of a CIDR list whose blocks have changed is in both: freed with the old blocks, added with the new.
        """
        freed = {number: self.by_number[number] for number, users in self._users.items() if not users}
        for number, selector in freed.items():
            del self._numbers[selector], self._users[number], self.by_number[number], self.digests[number]
        changed = {n: former for n, former in self._replaced.items() if _blocks_differ(former, self.by_number.get(n))}
        added = (self._added | changed.keys()) - freed.keys()
        removed = {number: selector for number, selector in (freed | changed).items() if number not in self._added}
        self._added, self._replaced = set(), {}
        return added, removed


def _blocks_differ(former: PeerSelector, current: PeerSelector | None) -> bool:
    blocks = current.blocks if isinstance(current, CidrList) else None
    return isinstance(former, CidrList) and former.blocks != blocks


def peer_selector_of(home: str, peer: Peer) -> PodPeerSelector | NodePeerSelector:
    """Return the selector of an entry of ``from`` or ``to`` that is not an IP block, in a policy of this namespace."""
    if peer.nodes is not None:
        return NodePeerSelector(peer.nodes)
    return PodPeerSelector("" if peer.namespaces is not None else home, peer.namespaces, peer.pods)


def selects_every_pod(selector: PeerSelector) -> bool:
    """Return whether the selector selects every pod whose namespace is known."""
    if not isinstance(selector, PodPeerSelector) or selector.namespaces is None or selector.namespaces.requirements:
        return False
    return selector.pods is None or not selector.pods.requirements


def resolve_named_ports(ports: Sequence[NamedPort], names: Iterable[PortName]) -> NamedPortNumbers:
    """Return the numbers that a pod's container ports have for each name; names that the pod lacks are left out."""
    resolved = ((name, protocol, tuple(sorted(resolve_named_port(ports, name, protocol)))) for name, protocol in names)
    return tuple(entry for entry in resolved if entry[2])
