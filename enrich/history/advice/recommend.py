"""Recommends the least NetworkPolicies that allow what was seen.

THEORY OF OPERATION

1. The namespace's own NetworkPolicies are put aside, and every pod of it is isolated. The connections that still pass
   need no rule: a pod's own node, or what a policy of the Admin tier accepts.
2. For each connection that would be denied, :mod:`enrich.history.advice.permits` finds a permit: pods by labels, with
   peers and ports, that allows no connection that was denied.
3. Permits whose connections others allow as well are removed, so that each one that is left is needed.
4. Permits of the same pods become a policy; those with the same ports become a rule. Each workload that was seen gets
   a policy, also without rules: what it was not seen to do is denied from then on.

The result is proven by :mod:`enrich.history.advice.proof`, which asks the reference about every connection again.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final

from enrich.history.advice.permits import PermitMaker, Style, WorkloadKey, workload_of
from enrich.history.advice.scopes import EVERY_POD, BlockScope, Ground, PeerScope, Permit, PodScope
from enrich.history.advice.traffic import Evidence, LeftOut, Question, Traffic, merged
from enrich.history.judging import DENY, Judge
from enrich.history.profile import PORT_PROTOCOLS
from enrich.history.stand_ins import Known
from enrich.model import NetworkPolicy, PolicyPort, Rule
from enrich.policy.matching import Direction, PolicyView
from enrich.wire.batch import Reason

_EXPLICIT: Final = Reason.EXPLICIT_DENY.name.lower()
_PREFIX: Final = "seen"
_MAX_NAME: Final = 200
_UNUSABLE: Final = re.compile(r"[^a-z0-9]+")


@dataclass(frozen=True, slots=True)
class RecommendedRule:
    """A rule, with the evidence of each peer."""

    peers: tuple[tuple[PeerScope, Evidence], ...]
    ports: tuple[PolicyPort, ...]

    def rule(self, namespace: str) -> Rule:
        """Return the rule as a policy of this namespace has it."""
        return Rule(tuple(peer for scope, _ in self.peers for peer in scope.peers(namespace)), self.ports)


@dataclass(frozen=True, slots=True)
class RecommendedPolicy:
    """A policy for the pods of one scope."""

    name: str
    scope: PodScope
    workloads: tuple[WorkloadKey, ...]
    """The workloads that it is made for; empty: all of the namespace."""
    also: tuple[WorkloadKey, ...]
    """Further workloads whose pods no labels tell from theirs."""
    ingress: tuple[RecommendedRule, ...]
    egress: tuple[RecommendedRule, ...]

    def policy(self) -> NetworkPolicy:
        """Return it as the engine reads it."""
        namespace = self.scope.namespace
        return NetworkPolicy(
            namespace,
            self.name,
            f"recommended-{namespace}-{self.name}",
            self.scope.selector,
            tuple(one.rule(namespace) for one in self.ingress),
            tuple(one.rule(namespace) for one in self.egress),
        )


@dataclass(frozen=True, slots=True)
class Advice:
    """What is recommended for one namespace."""

    namespace: str
    policies: tuple[RecommendedPolicy, ...]
    replaced: tuple[str, ...]
    """NetworkPolicies that the namespace has today, and that the recommended ones are meant to replace."""
    unable: Mapping[tuple[LeftOut, Question], Evidence]
    """Allowed connections that the policies do not allow, and why."""
    without_rule: Evidence
    """Allowed connections that need no rule."""


def recommend(view: PolicyView, known: Known, traffic: Traffic, style: Style) -> list[Advice]:
    """Return advice for each namespace that has pods in the traffic, by name."""
    namespaces = sorted({question.key.subject.namespace for question in traffic.judged()})
    return [_Namespace(view, known, traffic, style, namespace).advice() for namespace in namespaces]


def with_recommended(view: PolicyView, policies: Iterable[NetworkPolicy], namespaces: Iterable[str]) -> PolicyView:
    """Return a view in which some namespaces have these NetworkPolicies instead of theirs, all of them enforced."""
    gone = frozenset(namespaces)
    kept = {key: policy for key, policy in view.policies.items() if policy.namespace not in gone}
    return replace(
        view,
        policies={**kept, **{policy.key: replace(policy, audit=False) for policy in policies}},
        namespaces={
            key: replace(found, audit=False) if found.name in gone else found for key, found in view.namespaces.items()
        },
    )


class _Namespace:
    """The advice for one namespace in the making."""

    def __init__(self, view: PolicyView, known: Known, traffic: Traffic, style: Style, namespace: str) -> None:
        self._view = view
        self._known = known
        self._ground = Ground(known.profiles, view.nodes)
        self._style = style
        self._namespace = namespace
        own = traffic.of(namespace)
        self._allowed, self._denied, self._always = own.allowed, own.denied, own.always
        self._unable: dict[tuple[LeftOut, Question], Evidence] = {}
        self._without_rule = merged(self._always.values())

    def advice(self) -> Advice:
        """Make the advice."""
        isolating = NetworkPolicy(self._namespace, "isolated", "isolated", EVERY_POD, (), ())
        isolated = Judge(self._known, with_recommended(self._view, [isolating], [self._namespace]))
        maker = PermitMaker(self._ground, self._style, self._deniable(isolated))
        needed = list(self._needed(isolated))
        permits = self._without_needless(list(maker.make(needed)), needed)
        for question in maker.undecidable:
            self._unable[LeftOut.BOTH, question] = self._allowed[question]
        present = (policy.name for policy in self._view.policies.values() if policy.namespace == self._namespace)
        return Advice(
            self._namespace,
            tuple(self._policies(maker, permits)),
            tuple(sorted(present)),
            self._unable,
            self._without_rule,
        )

    def _deniable(self, isolated: Judge) -> Iterator[Question]:
        """Yield the denied connections that a rule could allow: those that no policy of the Admin tier denies."""
        for question in self._denied:
            if isolated.judge(question.key).reason != _EXPLICIT:
                yield question

    def _needed(self, isolated: Judge) -> Iterator[Question]:
        """Yield the allowed connections that need a rule and can have one; note the others."""
        for question, evidence in self._allowed.items():
            found = isolated.judge(question.key)
            if found.passes:
                self._without_rule.merge(evidence)
            elif found.verdict == DENY and found.reason == _EXPLICIT:
                self._unable[LeftOut.CLUSTER_POLICY, question] = evidence
            elif question.protocol not in PORT_PROTOCOLS:
                self._unable[LeftOut.PORTLESS, question] = evidence
            elif question.peer.node and not self._ground.networks(question):
                self._unable[LeftOut.PEER_NODE, question] = evidence
            else:
                yield question

    def _without_needless(self, permits: list[Permit], needed: list[Question]) -> list[Permit]:
        """Remove permits until each one that is left allows a connection that no other one does."""
        by_port: defaultdict[tuple[Direction, int, int], list[Question]] = defaultdict(list)
        for question in needed:
            by_port[question.direction, question.protocol, question.port].append(question)
        allowed: dict[Permit, list[Question]] = {}
        times: defaultdict[Question, int] = defaultdict(int)
        for permit in permits:
            asked = {(int(port.protocol), question.port) for port in permit.ports for question in permit.questions}
            allowed[permit] = [
                question
                for protocol, port in asked
                for question in by_port[permit.direction, protocol, port]
                if self._ground.allows(permit, question)
            ]
            for question in allowed[permit]:
                times[question] += 1
        kept = []
        for permit in sorted(allowed, key=lambda one: (len(allowed[one]), len(one.questions))):
            if all(times[question] > 1 for question in allowed[permit]):
                for question in allowed[permit]:
                    times[question] -= 1
            else:
                kept.append(replace(permit, questions=tuple(allowed[permit])))
        return kept

    def _policies(self, maker: PermitMaker, permits: list[Permit]) -> Iterator[RecommendedPolicy]:
        seen = sorted({question.subject for question in (*self._allowed, *self._denied, *self._always)})
        workloads: defaultdict[PodScope, set[WorkloadKey]] = defaultdict(set)
        for number in seen:
            workloads[maker.scope(number, self._style)].add(workload_of(number, self._ground.profiles[number]))
        by_scope: defaultdict[PodScope, list[Permit]] = defaultdict(list)
        for permit in permits:
            by_scope[permit.subjects].append(permit)
            for question in permit.questions:
                number = question.subject
                workloads[permit.subjects].add(workload_of(number, self._ground.profiles[number]))
        names: set[str] = set()
        for scope in sorted(
            workloads, key=lambda one: (sorted(workloads[one]), len(one.selector.requirements), repr(one))
        ):
            own = () if scope.selector == EVERY_POD and self._style == "namespace" else tuple(sorted(workloads[scope]))
            yield RecommendedPolicy(
                _name(self._namespace, own, names),
                scope,
                own,
                self._also(scope, workloads[scope]) if own else (),
                tuple(self._rules(by_scope[scope], Direction.INGRESS)),
                tuple(self._rules(by_scope[scope], Direction.EGRESS)),
            )

    def _also(self, scope: PodScope, own: set[WorkloadKey]) -> tuple[WorkloadKey, ...]:
        """Return the workloads whose pods a scope selects although it was not made for them."""
        profiles = self._ground.profiles.items()
        return tuple(sorted({workload_of(number, one) for number, one in profiles if scope.has(one)} - own))

    def _rules(self, permits: list[Permit], direction: Direction) -> Iterator[RecommendedRule]:
        """Yield the rules of one direction: peers that have the same ports share a rule."""
        ports: defaultdict[PeerScope, set[PolicyPort]] = defaultdict(set)
        evidence: defaultdict[PeerScope, Evidence] = defaultdict(Evidence)
        for permit in permits:
            if permit.direction is direction:
                ports[permit.peer].update(permit.ports)
                evidence[permit.peer].merge(merged(self._allowed[question] for question in permit.questions))
        peers: defaultdict[tuple[PolicyPort, ...], list[PeerScope]] = defaultdict(list)
        for peer, found in ports.items():
            peers[tuple(sorted(found, key=_port_order))].append(peer)
        for shared in sorted(peers, key=lambda one: [_port_order(port) for port in one]):
            ordered = sorted(peers[shared], key=_peer_order)
            yield RecommendedRule(tuple((peer, evidence[peer]) for peer in ordered), shared)


def _port_order(port: PolicyPort) -> tuple[int, str]:
    return int(port.protocol), f"{port.port:05}" if isinstance(port.port, int) else str(port.port)


def _peer_order(scope: PeerScope) -> tuple[bool, str, str]:
    if isinstance(scope, BlockScope):
        return True, scope.node, repr(scope.blocks)
    return False, scope.namespace, repr(scope.selector)


def _name(namespace: str, workloads: tuple[WorkloadKey, ...], taken: set[str]) -> str:
    """Return a name for a policy that no other one has. What the journal calls a workload need not be a valid name."""
    text = workloads[0].name if workloads else namespace
    base = f"{_PREFIX}-{_UNUSABLE.sub('-', text.lower()).strip('-')[:_MAX_NAME]}".rstrip("-")
    kind = _UNUSABLE.sub("-", workloads[0].kind.lower()).strip("-")[:63] if workloads else ""
    choices = [base, *([f"{base}-{kind}"] if kind else [])]
    number = 2
    while choices[0] in taken:
        choices.pop(0)
        if not choices:
            choices.append(f"{base}-{number}")
            number += 1
    taken.add(choices[0])
    return choices[0]
