"""Tiers, priorities, Deny and Pass, audit, and overlapping ports, flattened to one answer a range of ports. Pure.

The same steps as in :func:`enrich.policy.decide.decide`, on a side and a match in place of a view and a peer.
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

Range = tuple[int, int]


class FlatDecision(NamedTuple):
    """A verdict and the policies behind it, in the order in which they are listed."""

    verdict: Verdict
    reason: Reason
    refs: tuple[PolicyRef, ...] = ()


class MatchedRules(NamedTuple):
    """What a side sees of a peer; many peers are the same to it."""

    holds: tuple[bool, ...]
    """For each rule of the side whether its peers hold the peer."""
    named: NamedPortNumbers
    """The peer's named ports."""
    own: bool
    """Whether it is the subject's node."""


def matched_rules(side: Ruleset, match: PeerTraits) -> MatchedRules:
    """A match, as :func:`flatten` looks at it."""
    return MatchedRules(tuple([rule.peers.hold(match) for rule in _rules(side)]), match.named, match.own)


def flatten(side: Ruleset, seen: MatchedRules) -> tuple[FlatDecision, list[tuple[int, int, int, FlatDecision]]]:
    """The answer for what has no entry, and (protocol, low, high, answer) for the ports that have another."""
    view = _View(side, seen)
    other = view.decide(lambda rule: not rule.ports)
    return other, [
        (int(protocol), low, high, found)
        for protocol in Protocol
        for low, high, found in view.ranges(protocol)
        if found != other
    ]


def _rules(side: Ruleset) -> Iterator[CompiledRule]:
    return (rule for part in (*side.admin, *side.isolating, *side.baseline) for rule in part.rules)


_Held = tuple[PolicyRules, list[CompiledRule]]
"""A policy, and those of its rules whose peers hold the peer."""


class _View:
    """The rules of a side that hold for a peer."""

    def __init__(self, side: Ruleset, seen: MatchedRules) -> None:
        self._own = seen.own
        holds = {id(rule) for rule, held in zip(_rules(side), seen.holds, strict=True) if held}
        self._admin, self._isolating, self._baseline = (
            [(part, [rule for rule in part.rules if id(rule) in holds]) for part in parts]
            for parts in (side.admin, side.isolating, side.baseline)
        )
        self._audits = side.audits
        self._ranges: dict[Protocol, dict[int, list[Range]]] = {}
        for _, held in (*self._admin, *self._isolating, *self._baseline):
            for rule in held:
                for port in rule.ports:
                    by_rule = self._ranges.setdefault(port.protocol, {})
                    by_rule.setdefault(id(rule), []).extend(_numbers_of(port, seen.named))

    def ranges(self, protocol: Protocol) -> Iterator[tuple[int, int, FlatDecision]]:
        """Disjoint ranges of ports in order, each with its answer; neighbours differ."""
        by_rule = self._ranges.get(protocol)
        if not by_rule:
            return
        edges = {edge for found in by_rule.values() for low, high in found for edge in (low, high + 1)}
        held: tuple[int, int, FlatDecision] | None = None
        for low, after in itertools.pairwise(sorted({0, 1 << 16, *edges})):
            found = self.decide(_applies(by_rule, low, after - 1))
            if held and held[2] == found:
                held = (held[0], after - 1, found)
                continue
            if held:
                yield held
            held = (low, after - 1, found)
        if held:
            yield held

    def decide(self, applies: Callable[[CompiledRule], bool]) -> FlatDecision:
        """The answer where these rules' ports apply."""
        enforced = self._judge(applies, audited=False)
        if not self._audits or enforced.verdict is Verdict.DENY:
            return enforced
        together = self._judge(applies, audited=True)
        return together._replace(verdict=Verdict.AUDIT) if together.verdict is Verdict.DENY else enforced

    def _judge(self, applies: Callable[[CompiledRule], bool], *, audited: bool) -> FlatDecision:
        decided = _in_tier(self._admin, applies, audited=audited)
        if decided is not None:
            return decided
        isolating = [held for held in self._isolating if audited or not held[0].audited]
        if isolating and not self._own:
            return _isolated(isolating, applies)
        if not isolating:
            decided = _in_tier(self._baseline, applies, audited=audited)
        return decided or FlatDecision(Verdict.ALLOW, Reason.NODE if self._own else Reason.NO_POLICY)


def _applies(by_rule: Mapping[int, Sequence[Range]], low: int, high: int) -> Callable[[CompiledRule], bool]:
    def holds(rule: CompiledRule) -> bool:
        return not rule.ports or any(first <= low and high <= last for first, last in by_rule.get(id(rule), ()))

    return holds


def _in_tier(tier: Sequence[_Held], applies: Callable[[CompiledRule], bool], *, audited: bool) -> FlatDecision | None:
    for part, held in tier:
        if part.audited and not audited:
            continue
        for rule in held:
            if not applies(rule):
                continue
            if rule.action is Action.PASS:
                return None
            if rule.action is Action.ACCEPT:
                return FlatDecision(Verdict.ALLOW, Reason.POLICY, (rule.ref,))
            return FlatDecision(Verdict.DENY, Reason.EXPLICIT_DENY, (rule.ref,))
    return None


def _isolated(isolating: Sequence[_Held], applies: Callable[[CompiledRule], bool]) -> FlatDecision:
    allowing = [rule.ref for _, held in isolating for rule in held if applies(rule)]
    if allowing:
        return FlatDecision(Verdict.ALLOW, Reason.POLICY, tuple(sorted(allowing, key=listing_order)))
    return FlatDecision(
        Verdict.DENY, Reason.DEFAULT_DENY, tuple(sorted((part.ref for part, _ in isolating), key=listing_order))
    )


def _numbers_of(port: PolicyPort, named: NamedPortNumbers) -> list[Range]:
    """The ranges that a rule's port means."""
    if port.port is None:
        return [(0, 65535)]
    if isinstance(port.port, str):
        return [
            (number, number)
            for name, protocol, numbers in named
            if name == port.port and protocol is port.protocol
            for number in numbers
        ]
    return [(port.port, port.end_port or port.port)]
