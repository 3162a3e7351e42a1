"""Policies as the compiler uses them: rules whose peers are numbers of terms, in the order in which they decide.

A *side* is what decides about a subject in one direction. It knows which differences between peers count for it: to all
others it is blind, and they share its rows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from enrich.model import Action, ClusterNetworkPolicy, ClusterRule, IPBlock, NetworkPolicy, Peer, PolicyPort, Tier
from enrich.model import Rule as NetworkRule
from enrich.policy.decide import Direction, cluster_rules_in, rules
from enrich.wire.batch import PolicyRef
from probe.policy.peer_selectors import (
    ALL_ADDRESSES,
    NamedPortNumbers,
    PeerSelectors,
    PeerTraits,
    PortName,
    RulePeers,
    peer_selector_of,
    selects_every_pod,
)

Policy = NetworkPolicy | ClusterNetworkPolicy


class CompiledRule(NamedTuple):
    """A rule. ``action`` None: a NetworkPolicy's, which allows."""

    ref: PolicyRef
    peers: RulePeers
    ports: tuple[PolicyPort, ...]
    action: Action | None


class PolicyRules(NamedTuple):
    """A policy in one direction. ``ref`` is the policy itself."""

    ref: PolicyRef
    tier: Tier | None
    audited: bool
    rules: tuple[CompiledRule, ...]


class AppliedPolicy(NamedTuple):
    """A policy that applies to somebody, and whether it is audited; equal digests are equal content."""

    policy: Policy
    audited: bool
    digest: str


@dataclass(frozen=True, slots=True)
class CompiledPolicy:
    """A policy in force."""

    parts: tuple[PolicyRules | None, PolicyRules | None]
    """By direction; None: it says nothing there."""
    terms: tuple[int, ...]
    """One for each use, to be given back."""
    named: frozenset[PortName]
    """Names that egress rules ask for: the peers' ports."""


def digest(*content: object) -> str:
    """What content is known by in the ledger."""
    return hashlib.sha256(repr(content).encode()).hexdigest()[:32]


def compile_policy(source: AppliedPolicy, terms: PeerSelectors) -> CompiledPolicy:
    """Number a policy's terms; it uses them until they are given back."""
    used: list[int] = []
    parts = tuple(_part(source, direction, terms, used) for direction in Direction)
    return CompiledPolicy((parts[0], parts[1]), tuple(used), frozenset(named_ports([source.policy], Direction.EGRESS)))


def _part(source: AppliedPolicy, direction: Direction, terms: PeerSelectors, used: list[int]) -> PolicyRules | None:
    policy = source.policy
    listed: Sequence[NetworkRule] | Sequence[ClusterRule] | None
    if isinstance(policy, NetworkPolicy):
        home, tier, listed = policy.namespace, None, rules(policy, direction)
    else:
        home, tier, listed = "", policy.tier, cluster_rules_in(policy, direction) or None
    if listed is None:
        return None
    kind = type(policy).__name__
    made: list[CompiledRule] = []
    every: Iterable[NetworkRule | ClusterRule] = listed
    for index, rule in enumerate(every):
        # A NetworkPolicy's rule without peers is for anybody, a ClusterNetworkPolicy's for nobody.
        anybody = isinstance(rule, NetworkRule) and not rule.peers
        peers = RulePeers(None) if anybody else _peers(home, rule.peers, terms, used)
        action = rule.action if isinstance(rule, ClusterRule) else None
        made.append(CompiledRule(PolicyRef(kind, home, policy.name, index), peers, rule.ports, action))
    return PolicyRules(PolicyRef(kind, home, policy.name), tier, source.audited, tuple(made))


def _peers(home: str, peers: Iterable[Peer], terms: PeerSelectors, used: list[int]) -> RulePeers:
    numbers: set[int] = set()
    families: set[int] = set()
    pods = False
    for peer in peers:
        term = peer_selector_of(home, peer)
        if isinstance(term, IPBlock) and term in ALL_ADDRESSES:
            families.add(ALL_ADDRESSES[term])
        elif selects_every_pod(term):
            pods = True
            continue
        number = terms.acquire(term)
        used.append(number)
        if not (isinstance(term, IPBlock) and term in ALL_ADDRESSES):
            numbers.add(number)
    return RulePeers(frozenset(numbers), pods, frozenset(families))


def named_ports(policies: Iterable[Policy], direction: Direction) -> list[PortName]:
    """The ports' names that rules of a direction ask for."""
    named = {
        (port.port, port.protocol)
        for policy in policies
        for rule in (
            rules(policy, direction) or () if isinstance(policy, NetworkPolicy) else cluster_rules_in(policy, direction)
        )
        for port in rule.ports
        if isinstance(port.port, str)
    }
    return sorted(named)


@dataclass(frozen=True, slots=True, eq=False)
class Ruleset:
    """What decides about a subject's traffic in one direction."""

    direction: Direction
    admin: tuple[PolicyRules, ...]
    isolating: tuple[PolicyRules, ...]
    baseline: tuple[PolicyRules, ...]
    own_named_ports: NamedPortNumbers
    """The subject's own named ports."""
    relevant: frozenset[int]
    """Every term of the rules."""
    pods: bool
    families: bool
    uses_names: bool
    audits: bool
    """Whether any part is audited."""

    def treats_alike(self, seen: PeerTraits, usual: PeerTraits) -> bool:
        """Whether the peer is to this side what ``usual``, which no rule names, is."""
        if not self.relevant.isdisjoint(seen.terms) or (self.pods and seen.pod != usual.pod):
            return False
        if self.families and seen.family != usual.family:
            return False
        return self.direction is Direction.INGRESS or not (seen.own or (self.uses_names and seen.named))

    def match(self, seen: PeerTraits) -> PeerTraits:
        """The peer as this side sees it."""
        egress = self.direction is Direction.EGRESS
        # An egress rule's names mean the peer's ports, an ingress rule's the subject's own.
        named = (seen.named if egress else self.own_named_ports) if self.uses_names else ()
        return PeerTraits(
            seen.terms & self.relevant,
            seen.pod and self.pods,
            seen.family if self.families else 0,
            named,
            seen.own and egress,
        )


def build_ruleset(parts: Sequence[PolicyRules], direction: Direction, own_named_ports: NamedPortNumbers) -> Ruleset:
    """``parts`` in the order in which policies are listed and asked."""
    listed = [rule for part in parts for rule in part.rules]
    return Ruleset(
        direction=direction,
        admin=tuple(part for part in parts if part.tier is Tier.ADMIN),
        isolating=tuple(part for part in parts if part.tier is None),
        baseline=tuple(part for part in parts if part.tier is Tier.BASELINE),
        own_named_ports=own_named_ports,
        relevant=frozenset().union(*(rule.peers.terms for rule in listed if rule.peers.terms)),
        pods=any(rule.peers.pods for rule in listed),
        families=any(rule.peers.families for rule in listed),
        uses_names=any(isinstance(port.port, str) for rule in listed for port in rule.ports),
        audits=any(part.audited for part in parts),
    )
