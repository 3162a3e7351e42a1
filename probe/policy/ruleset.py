"""Policies in compiled form, and rulesets: all that decides about a subject in one direction.

A compiled policy names its peers by peer selector numbers instead of label selectors. A ruleset puts the compiled
policies of one subject and one direction into the order in which they decide: the admin tier, the NetworkPolicies that
isolate the subject, the baseline tier.

A ruleset also knows which differences between peers it can see at all (:meth:`Ruleset.visible_traits`). Identities that
differ only in traits it cannot see share one policy entry's content. That keeps the entries of a cluster with many
identities few.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from enrich.model import Action, ClusterRule, IPBlock, NetworkPolicy, Peer, Policy, PolicyPort, Rule, Tier
from enrich.policy.decide import cluster_rules_in, rules_in
from enrich.policy.matching import Direction
from enrich.wire.batch import PolicyRef
from probe.policy.peer_selectors import (
    ALL_ADDRESSES,
    CidrList,
    NamedPortNumbers,
    PeerSelector,
    PeerSelectors,
    PeerTraits,
    PortName,
    RulePeers,
    peer_selector_of,
    selects_every_pod,
)


class CompiledRule(NamedTuple):
    """One rule of a policy. ``action`` is None for a NetworkPolicy's rule, which can only allow."""

    ref: PolicyRef
    peers: RulePeers
    ports: tuple[PolicyPort, ...]
    action: Action | None


class PolicyRules(NamedTuple):
    """The rules of one policy in one direction."""

    ref: PolicyRef
    """The policy itself, which a default deny names."""
    tier: Tier | None
    """None for a NetworkPolicy."""
    audited: bool
    rules: tuple[CompiledRule, ...]


class AppliedPolicy(NamedTuple):
    """A policy that applies to some subject. Equal digests mean equal content and equal ``audited``."""

    policy: Policy
    audited: bool
    digest: str


@dataclass(frozen=True, slots=True)
class CompiledPolicy:
    """A policy in force, with the references that it holds."""

    directions: tuple[PolicyRules | None, PolicyRules | None]
    """By direction (egress, ingress); None where the policy says nothing."""
    selectors: tuple[int, ...]
    """Peer selectors to release when the policy is no longer in force, one entry for each reference."""
    egress_port_names: frozenset[PortName]
    """Port names in egress rules. They are resolved on the peers, so they are part of the peers' identities."""
    prefixes: int
    """How many prefixes its IP blocks and their exceptions are."""


def digest(*content: object) -> str:
    """Return the hash by which the ledger recognizes content."""
    return hashlib.sha256(repr(content).encode()).hexdigest()[:32]


def compile_policy(applied: AppliedPolicy, selectors: PeerSelectors) -> CompiledPolicy:
    """Compile a policy, acquiring its peer selectors. The caller releases ``CompiledPolicy.selectors`` later."""
    acquired: list[int] = []
    egress, ingress = (_policy_rules(applied, direction, selectors, acquired) for direction in Direction)
    names = port_names([applied.policy], Direction.EGRESS)
    blocks = (selectors.by_number[number] for number in acquired)
    prefixes = sum(1 + len(block.excepts) for found in blocks if isinstance(found, CidrList) for block in found.blocks)
    return CompiledPolicy((egress, ingress), tuple(acquired), frozenset(names), prefixes)


def _policy_rules(
    applied: AppliedPolicy, direction: Direction, selectors: PeerSelectors, acquired: list[int]
) -> PolicyRules | None:
    policy = applied.policy
    rules: Sequence[Rule] | Sequence[ClusterRule] | None
    if isinstance(policy, NetworkPolicy):
        home, tier, rules = policy.namespace, None, rules_in(policy, direction)
    else:
        home, tier, rules = "", policy.tier, cluster_rules_in(policy, direction) or None
    if rules is None:
        return None
    kind = type(policy).__name__
    compiled: list[CompiledRule] = []
    for index, rule in enumerate[Rule | ClusterRule](rules):
        # A NetworkPolicy's rule without peers matches every peer, a ClusterNetworkPolicy's matches none.
        every_peer = isinstance(rule, Rule) and not rule.peers
        ref = PolicyRef(kind, home, policy.name, index)
        peers = RulePeers(None) if every_peer else _rule_peers(ref, direction, rule.peers, selectors, acquired)
        action = rule.action if isinstance(rule, ClusterRule) else None
        compiled.append(CompiledRule(ref, peers, rule.ports, action))
    return PolicyRules(PolicyRef(kind, home, policy.name), tier, applied.audited, tuple(compiled))


def _rule_peers(
    ref: PolicyRef, direction: Direction, peers: Iterable[Peer], selectors: PeerSelectors, acquired: list[int]
) -> RulePeers:
    numbers: set[int] = set()
    families: set[int] = set()
    blocks: set[IPBlock] = set()
    every_pod = False

    def acquire(selector: PeerSelector) -> int:
        acquired.append(selectors.acquire(selector))
        return acquired[-1]

    for peer in peers:
        block = peer.ip_block
        if block in ALL_ADDRESSES:
            # It has a number because 0.0.0.0/0 is a prefix in ``addresses``, but no identity contains it.
            acquire(block)
            families.add(ALL_ADDRESSES[block])
        elif block is not None:
            blocks.add(block)
        elif selects_every_pod(selector := peer_selector_of(ref.namespace, peer)):
            every_pod = True
        else:
            numbers.add(acquire(selector))
    if blocks:
        numbers.add(acquire(CidrList(ref, direction, frozenset(blocks))))
    return RulePeers(frozenset(numbers), every_pod, frozenset(families))


def port_names(policies: Iterable[Policy], direction: Direction) -> list[PortName]:
    """Return the port names in the rules of one direction, sorted and without repeats."""
    names = {
        (port.port, port.protocol)
        for policy in policies
        for rule in (
            rules_in(policy, direction) or ()
            if isinstance(policy, NetworkPolicy)
            else cluster_rules_in(policy, direction)
        )
        for port in rule.ports
        if isinstance(port.port, str)
    }
    return sorted(names)


@dataclass(frozen=True, slots=True, eq=False)
class Ruleset:
    """All that decides about a subject's traffic in one direction, and which traits of peers it depends on."""

    direction: Direction
    admin: tuple[PolicyRules, ...]
    isolating: tuple[PolicyRules, ...]
    baseline: tuple[PolicyRules, ...]
    own_named_ports: NamedPortNumbers
    """The subject's named ports, which ingress rules mean."""
    selectors: frozenset[int]
    """Every peer selector in the rules."""
    uses_every_pod: bool
    uses_families: bool
    uses_port_names: bool
    has_audited: bool

    def treats_alike(self, traits: PeerTraits, default: PeerTraits) -> bool:
        """Return whether no rule can tell a peer from ``default``, which no peer selector selects.

        This is the cheap test that skips most identities; :meth:`visible_traits` is the exact one.
        """
        if not self.selectors.isdisjoint(traits.selectors) or (self.uses_every_pod and traits.pod != default.pod):
            return False
        if self.uses_families and traits.family != default.family:
            return False
        return self.direction is Direction.INGRESS or not (
            traits.own_node or (self.uses_port_names and traits.named_ports)
        )

    def visible_traits(self, traits: PeerTraits) -> PeerTraits:
        """Return the traits without those that no rule depends on. Peers with equal results get equal entries."""
        egress = self.direction is Direction.EGRESS
        # A port name in an egress rule means the peer's container port, in an ingress rule the subject's own.
        named_ports = (traits.named_ports if egress else self.own_named_ports) if self.uses_port_names else ()
        return PeerTraits(
            traits.selectors & self.selectors,
            traits.pod and self.uses_every_pod,
            traits.family if self.uses_families else 0,
            named_ports,
            traits.own_node and egress,
        )


def build_ruleset(policies: Sequence[PolicyRules], direction: Direction, own_named_ports: NamedPortNumbers) -> Ruleset:
    """Return the ruleset of ``policies``, which are in the order in which they decide within their tier."""
    rules = [rule for policy in policies for rule in policy.rules]
    return Ruleset(
        direction=direction,
        admin=tuple(policy for policy in policies if policy.tier is Tier.ADMIN),
        isolating=tuple(policy for policy in policies if policy.tier is None),
        baseline=tuple(policy for policy in policies if policy.tier is Tier.BASELINE),
        own_named_ports=own_named_ports,
        selectors=frozenset().union(*(rule.peers.selectors for rule in rules if rule.peers.selectors)),
        uses_every_pod=any(rule.peers.every_pod for rule in rules),
        uses_families=any(rule.peers.families for rule in rules),
        uses_port_names=any(isinstance(port.port, str) for rule in rules for port in rule.ports),
        has_audited=any(policy.audited for policy in policies),
    )
