"""Compiles the cluster's policies to what the kernel's maps must hold, for the pods of one node. Pure.

Peers that no rule in force tells apart are one *identity* (:mod:`probe.peers`); every address maps to its identity. A
*set* is what applies to a subject; subjects with the same policies share it. For a set, a direction and an identity
there is a *row*: the answer for every port that no port entry tells otherwise. The union of rules, their port ranges
and names are flattened here; the kernel compares nothing.

Sets and rows are numbered by their content, so that they never change under a number, and equal input gives equal
output.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import msgspec

from enrich.model import NetworkPolicy, Pod, PolicyPort, Protocol, Rule
from enrich.policy import Direction, PolicyView, isolates
from enrich.records import PolicyRef, Reason, Verdict
from probe.desired import (
    NODE,
    OPEN,
    OWN_NODE,
    POD,
    WORLD,
    Answer,
    Defaults,
    Desired,
    Identity,
    PolicySet,
    Row,
    host_key,
    lookup,
)
from probe.numbers import Numbers
from probe.peers import Named, PeerClass, PortName, Term, classify, is_universal, resolved, term_of
from probe.ports import prefixes, segments

__all__ = [
    "NODE",
    "OPEN",
    "POD",
    "WORLD",
    "Answer",
    "Compiler",
    "Defaults",
    "Desired",
    "Identity",
    "PolicySet",
    "Row",
    "host_key",
    "lookup",
]


class Compiler:
    """Compiles again and again with the same numbers."""

    def __init__(self, numbers: Numbers) -> None:
        self._numbers = numbers

    def compile(self, view: PolicyView, subjects: Sequence[Pod]) -> Desired:
        """The maps' content for ``subjects``, the local pods whose interfaces are known."""
        desired = _Build(self._numbers, view, subjects).desired()
        self._numbers.flush()
        return desired


class _Rule(NamedTuple):
    ref: int
    """Index into the build's refs, which are in the order in which policies are listed."""
    terms: frozenset[int] | None
    """None: any peer."""
    ports: tuple[PolicyPort, ...]


@dataclass(frozen=True, slots=True, eq=False)
class _Side:
    """What decides about a subject's traffic in one direction. One object a set and direction."""

    direction: Direction
    isolating: tuple[int, ...]
    """Refs of the policies that isolate; none: everything is let be."""
    rules: tuple[_Rule, ...]
    relevant: frozenset[int]
    """Every term of the rules: others make no difference."""
    own_named: Named
    """The subject's own named ports."""
    uses_names: bool


class _Build:
    def __init__(self, numbers: Numbers, view: PolicyView, subjects: Sequence[Pod]) -> None:
        self._numbers = numbers
        self._view = view
        self._by_namespace: dict[str, list[NetworkPolicy]] = defaultdict(list)
        for policy in sorted(view.policies.values(), key=lambda one: one.key):
            self._by_namespace[policy.namespace].append(policy)
        self._subjects = {pod.uid: (pod, self._policies_of(pod)) for pod in subjects}
        in_force = {policy.key: policy for _, policies in self._subjects.values() for policy in policies}
        self._terms: dict[Term, int] = {}
        self._refs: list[PolicyRef] = []
        self._sides: dict[tuple[str, str, Direction], tuple[int, tuple[_Rule, ...]]] = {}
        for _, policy in sorted(in_force.items()):
            for direction in Direction:
                self._take_in(policy, direction)
        self._names = {direction: _named_ports(in_force.values(), direction) for direction in Direction}
        self._universal = frozenset(number for term, number in self._terms.items() if is_universal(term))
        self._rules: dict[int, tuple[PolicyRef, ...]] = {}
        self._rule_of: dict[frozenset[int], int] = {}
        self._ports: dict[tuple[int, int, int, int], Answer] = {}
        self._written: set[int] = set()

    def desired(self) -> Desired:
        classes = classify(self._view, self._terms, self._names[Direction.EGRESS])
        texts = [repr(term) for term in self._terms]
        members = {one: Identity(self._identity(one, texts), one.kind) for one in set(classes.values())}
        sets: dict[str, PolicySet] = {}
        rows: dict[tuple[int, int, int], Row] = {}
        known: dict[tuple[tuple[NetworkPolicy, ...], Named], PolicySet] = {}
        for uid, (pod, policies) in self._subjects.items():
            subject = (policies, resolved(pod.ports, _named_ports(policies, Direction.INGRESS)))
            if subject not in known:
                known[subject] = self._set(*subject, members, rows)
            sets[uid] = known[subject]
        return Desired({key: members[one] for key, one in classes.items()}, sets, rows, self._ports, self._rules)

    # --- what is in force

    def _policies_of(self, pod: Pod) -> tuple[NetworkPolicy, ...]:
        policies = self._by_namespace.get(pod.namespace, ())
        return tuple(policy for policy in policies if any(isolates(policy, pod, direction) for direction in Direction))

    def _take_in(self, policy: NetworkPolicy, direction: Direction) -> None:
        """Number a policy's terms, and itself and its rules as what an answer may name."""
        rules = _rules(policy, direction)
        if rules is None:
            return
        isolating = self._ref(policy, None)
        taken = tuple(
            _Rule(
                self._ref(policy, index),
                frozenset(self._term(term_of(policy, peer)) for peer in rule.peers) if rule.peers else None,
                rule.ports,
            )
            for index, rule in enumerate(rules)
        )
        self._sides[policy.namespace, policy.name, direction] = isolating, taken

    def _ref(self, policy: NetworkPolicy, rule: int | None) -> int:
        self._refs.append(PolicyRef("NetworkPolicy", policy.namespace, policy.name, rule))
        return len(self._refs) - 1

    def _term(self, term: Term) -> int:
        return self._terms.setdefault(term, len(self._terms))

    def _identity(self, found: PeerClass, texts: Sequence[str]) -> int:
        terms = sorted(texts[number] for number in found.terms)
        return self._numbers.of("identity", _digest(found.kind, found.own, terms, found.named))

    # --- sets

    def _set(
        self,
        policies: tuple[NetworkPolicy, ...],
        named: Named,
        members: Mapping[PeerClass, Identity],
        rows: dict[tuple[int, int, int], Row],
    ) -> PolicySet:
        """A set's number and defaults; what differs from them goes to ``rows``."""
        number = self._numbers.of("set", _digest(policies, named))
        egress, ingress = (
            self._rows_of(self._side(policies, direction, named), number, members, rows) for direction in Direction
        )
        return PolicySet(number, (egress, ingress))

    def _side(self, policies: Iterable[NetworkPolicy], direction: Direction, named: Named) -> _Side:
        keys = ((policy.namespace, policy.name, direction) for policy in policies)
        found = [self._sides[key] for key in keys if key in self._sides]
        rules = tuple(rule for _, rules in found for rule in rules)
        return _Side(
            direction=direction,
            isolating=tuple(ref for ref, _ in found),
            rules=rules,
            relevant=frozenset().union(*(rule.terms for rule in rules if rule.terms is not None)),
            own_named=named,
            uses_names=any(isinstance(port.port, str) for rule in rules for port in rule.ports),
        )

    def _rows_of(
        self,
        side: _Side,
        number: int,
        members: Mapping[PeerClass, Identity],
        rows: dict[tuple[int, int, int], Row],
    ) -> tuple[Row, Row, Row]:
        by_match: dict[tuple[frozenset[int], Named], Row] = {}

        def row_of(terms: frozenset[int], peer_named: Named = ()) -> Row:
            # An egress rule's names mean the peer's ports, an ingress rule's the subject's own.
            named = peer_named if side.direction is Direction.EGRESS else side.own_named
            key = (terms & side.relevant, named if side.uses_names else ())
            if key not in by_match:
                by_match[key] = self._row(side, *key)
            return by_match[key]

        nobody = row_of(frozenset())
        defaults = (row_of(self._universal), nobody, nobody)
        for peer, identity in members.items():
            own = peer.own and side.direction is Direction.EGRESS
            row = OWN_NODE if own else row_of(peer.terms, peer.named)
            if row != defaults[peer.kind]:
                rows[number, int(side.direction), identity.number] = row
        return defaults

    # --- rows

    def _row(self, side: _Side, terms: frozenset[int], named: Named) -> Row:
        """The answer for peers that these terms match."""
        if not side.isolating:
            return OPEN
        everything: set[int] = set()
        ranges: dict[Protocol, list[tuple[int, int, int]]] = defaultdict(list)
        for rule in side.rules:
            if rule.terms is not None and rule.terms.isdisjoint(terms):
                continue
            if not rule.ports:
                everything.add(rule.ref)
            for port in rule.ports:
                ranges[port.protocol] += [(low, high, rule.ref) for low, high in _numbers_of(port, named)]
        number = self._port_entries(frozenset(everything), ranges)
        if everything:
            return Row(number, self._rule(frozenset(everything)), Verdict.ALLOW, Reason.POLICY)
        return Row(number, self._rule(frozenset(side.isolating)), Verdict.DENY, Reason.DEFAULT_DENY)

    def _port_entries(
        self, everything: frozenset[int], ranges: Mapping[Protocol, Sequence[tuple[int, int, int]]]
    ) -> int:
        """The row number under which the ports stand, 0 where there are none. Each names all that allow it."""
        parts = [
            (int(protocol), low, high, self._rule(everything | refs))
            for protocol, wanted in sorted(ranges.items())
            for low, high, refs in segments(wanted)
        ]
        if not parts:
            return 0
        number = self._numbers.of("row", _digest(parts))
        if number in self._written:
            return number
        self._written.add(number)
        for protocol, low, high, rule in parts:
            answer = Answer(Verdict.ALLOW, Reason.POLICY, rule)
            self._ports.update({(number, protocol, port, bits): answer for port, bits in prefixes(low, high)})
        return number

    def _rule(self, refs: frozenset[int]) -> int:
        if refs not in self._rule_of:
            listed = tuple(self._refs[ref] for ref in sorted(refs))
            meaning = msgspec.to_builtins(listed)
            self._rule_of[refs] = self._numbers.of("rule", _digest(meaning), list(meaning))
            self._rules[self._rule_of[refs]] = listed
        return self._rule_of[refs]


def _rules(policy: NetworkPolicy, direction: Direction) -> tuple[Rule, ...] | None:
    return policy.egress if direction is Direction.EGRESS else policy.ingress


def _named_ports(policies: Iterable[NetworkPolicy], direction: Direction) -> list[PortName]:
    named = {
        (port.port, port.protocol)
        for policy in policies
        for rule in _rules(policy, direction) or ()
        for port in rule.ports
        if isinstance(port.port, str)
    }
    return sorted(named)


def _numbers_of(port: PolicyPort, named: Named) -> list[tuple[int, int]]:
    """The ranges that a NetworkPolicyPort means."""
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


def _digest(*content: object) -> str:
    return hashlib.sha256(repr(content).encode()).hexdigest()[:32]
