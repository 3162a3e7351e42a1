"""Flattens the part of a ruleset that applies to one kind of peer to one decision per range of ports.

The steps are those of :func:`enrich.policy.decide.decide`, but for all ports at once, and on the set of rules that the
peer matches instead of the peer itself. Tests compare the two.

Theory of operation, for the ingress of a subject with these policies, and a peer that is in all the rules:

    admin     ClusterNetworkPolicy "no-telnet"   rule 0: Deny  TCP 23
              ClusterNetworkPolicy "metrics"     rule 0: Pass  TCP 9000-9100
    isolating NetworkPolicy        "web"         rule 0: TCP 80 and TCP 9090
    baseline  ClusterNetworkPolicy "fallback"    rule 0: Deny  every port

1. The edges of all port ranges cut TCP into pieces in which no rule begins or ends: 0-22, 23, 24-79, 80, 81-8999,
   9000-9089, 9090, 9091-9100, 9101-65535.
2. Each piece is decided once. Admin tier: the first rule that matches decides; Pass, or no match, continues with the
   next tier (TCP 23: deny by "no-telnet" rule 0). NetworkPolicies, if any isolates the subject, decide finally: all
   rules that match allow together (TCP 80 and 9090: allow by "web" rule 0), none that matches is a default deny by
   "web" (everything else). The baseline tier decides only for a subject that no NetworkPolicy isolates; here it is
   never consulted.
3. Neighbouring pieces with equal decisions merge. What is left, besides the decision for protocols and ports that no
   range names (here default deny), is 23, 80 and 9090: three port entries.

Audited policies take no part in a verdict. If the other policies allow what all policies together deny, the verdict is
``audit``, with the reason and the policies of that denial.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from enrich.model import Action, PolicyPort, Protocol
from enrich.policy.decide import listing_order
from enrich.wire.batch import PolicyRef, Reason, Verdict
from probe.policy.peer_selectors import NamedPortNumbers, PeerTraits
from probe.policy.ruleset import CompiledRule, PolicyRules, Ruleset

PortRange = tuple[int, int]
"""First and last port, both included."""


class FlatDecision(NamedTuple):
    """A verdict and the policies behind it, in listing order."""

    verdict: Verdict
    reason: Reason
    refs: tuple[PolicyRef, ...] = ()


class MatchedRules(NamedTuple):
    """All that flattening needs to know of a peer. Many identities have equal ones, and share a flattened policy."""

    contains_peer: tuple[bool, ...]
    """For each rule of the ruleset, in order, whether the peer is one of its peers."""
    named_ports: NamedPortNumbers
    own_node: bool


FlattenedPolicy = tuple[FlatDecision, list[tuple[int, int, int, FlatDecision]]]
"""The decision for every port that no range contains, and ranges (protocol, first, last, decision) that differ."""


def matched_rules(ruleset: Ruleset, traits: PeerTraits) -> MatchedRules:
    """Return which rules of the ruleset have a peer with these traits among their peers."""
    contains = tuple([rule.peers.contains(traits) for rule in _all_rules(ruleset)])
    return MatchedRules(contains, traits.named_ports, traits.own_node)


def flatten(ruleset: Ruleset, matched: MatchedRules) -> FlattenedPolicy:
    """Resolve tiers, priorities, audit and overlapping port ranges."""
    rules = _MatchingRules(ruleset, matched)
    # A protocol or port that no rule names, and protocols without ports, match only the rules that list no ports.
    other = rules.decide(lambda rule: not rule.ports)
    return other, [
        (int(protocol), low, high, decision)
        for protocol in Protocol
        for low, high, decision in rules.port_ranges(protocol)
        if decision != other
    ]


def _all_rules(ruleset: Ruleset) -> Iterator[CompiledRule]:
    return (rule for policy in (*ruleset.admin, *ruleset.isolating, *ruleset.baseline) for rule in policy.rules)


_MatchingPolicy = tuple[PolicyRules, list[CompiledRule]]
"""A policy, and those of its rules whose peers contain the peer."""


class _MatchingRules:
    """The ruleset without the rules whose peers do not contain the peer."""

    def __init__(self, ruleset: Ruleset, matched: MatchedRules) -> None:
        self._own_node = matched.own_node
        matching = {
            id(rule) for rule, contains in zip(_all_rules(ruleset), matched.contains_peer, strict=True) if contains
        }
        self._admin, self._isolating, self._baseline = (
            [(policy, [rule for rule in policy.rules if id(rule) in matching]) for policy in policies]
            for policies in (ruleset.admin, ruleset.isolating, ruleset.baseline)
        )
        self._has_audited = ruleset.has_audited
        self._ranges: dict[Protocol, dict[int, list[PortRange]]] = {}
        for _, rules in (*self._admin, *self._isolating, *self._baseline):
            for rule in rules:
                for port in rule.ports:
                    by_rule = self._ranges.setdefault(port.protocol, {})
                    by_rule.setdefault(id(rule), []).extend(_port_ranges(port, matched.named_ports))

    def port_ranges(self, protocol: Protocol) -> Iterator[tuple[int, int, FlatDecision]]:
        """Yield disjoint ranges of ports in order, each with its decision. Neighbours have different decisions."""
        by_rule = self._ranges.get(protocol)
        if not by_rule:
            return
        edges = {edge for ranges in by_rule.values() for low, high in ranges for edge in (low, high + 1)}
        growing: tuple[int, int, FlatDecision] | None = None
        for low, after in itertools.pairwise(sorted({0, 1 << 16, *edges})):
            decision = self.decide(_port_test(by_rule, low, after - 1))
            if growing and growing[2] == decision:
                growing = (growing[0], after - 1, decision)
                continue
            if growing:
                yield growing
            growing = (low, after - 1, decision)
        if growing:
            yield growing

    def decide(self, port_matches: Callable[[CompiledRule], bool]) -> FlatDecision:
        """Decide for the ports for which ``port_matches`` says whether a rule's ports contain them."""
        enforced = self._judge(port_matches, with_audited=False)
        if not self._has_audited or enforced.verdict is Verdict.DENY:
            return enforced
        together = self._judge(port_matches, with_audited=True)
        return together._replace(verdict=Verdict.AUDIT) if together.verdict is Verdict.DENY else enforced

    def _judge(self, port_matches: Callable[[CompiledRule], bool], *, with_audited: bool) -> FlatDecision:
        decision = _decide_in_tier(self._admin, port_matches, with_audited=with_audited)
        if decision is not None:
            return decision
        isolating = [policy for policy in self._isolating if with_audited or not policy[0].audited]
        if isolating and not self._own_node:
            return _decide_isolated(isolating, port_matches)
        if not isolating:
            decision = _decide_in_tier(self._baseline, port_matches, with_audited=with_audited)
        return decision or FlatDecision(Verdict.ALLOW, Reason.NODE if self._own_node else Reason.NO_POLICY)


def _port_test(by_rule: Mapping[int, Sequence[PortRange]], low: int, high: int) -> Callable[[CompiledRule], bool]:
    def port_matches(rule: CompiledRule) -> bool:
        return not rule.ports or any(first <= low and high <= last for first, last in by_rule.get(id(rule), ()))

    return port_matches


def _decide_in_tier(
    tier: Sequence[_MatchingPolicy], port_matches: Callable[[CompiledRule], bool], *, with_audited: bool
) -> FlatDecision | None:
    """Return what the first matching rule says; None if there is none, or it says Pass."""
    for policy, rules in tier:
        if policy.audited and not with_audited:
            continue
        for rule in rules:
            if not port_matches(rule):
                continue
            if rule.action is Action.PASS:
                return None
            if rule.action is Action.ACCEPT:
                return FlatDecision(Verdict.ALLOW, Reason.POLICY, (rule.ref,))
            return FlatDecision(Verdict.DENY, Reason.EXPLICIT_DENY, (rule.ref,))
    return None


def _decide_isolated(
    isolating: Sequence[_MatchingPolicy], port_matches: Callable[[CompiledRule], bool]
) -> FlatDecision:
    allowing = [rule.ref for _, rules in isolating for rule in rules if port_matches(rule)]
    if allowing:
        return FlatDecision(Verdict.ALLOW, Reason.POLICY, tuple(sorted(allowing, key=listing_order)))
    denying = (policy.ref for policy, _ in isolating)
    return FlatDecision(Verdict.DENY, Reason.DEFAULT_DENY, tuple(sorted(denying, key=listing_order)))


def _port_ranges(port: PolicyPort, named_ports: NamedPortNumbers) -> list[PortRange]:
    """Return the ranges that one port of a rule means; none if it is a name that the pod does not have."""
    if port.port is None:
        return [(0, 65535)]
    if isinstance(port.port, str):
        return [
            (number, number)
            for name, protocol, numbers in named_ports
            if name == port.port and protocol is port.protocol
            for number in numbers
        ]
    return [(port.port, port.end_port or port.port)]
