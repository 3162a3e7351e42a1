"""Proves a recommendation: asks the reference about every connection that was seen, with the policies as printed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from enrich.history.advice.recommend import with_recommended
from enrich.history.advice.traffic import Evidence, Question, Traffic
from enrich.history.distinctions import may_select
from enrich.history.judging import CANNOT_SAY, Judge
from enrich.history.profile import left_out_of
from enrich.history.stand_ins import Known
from enrich.model import Name, NetworkPolicy
from enrich.policy.matching import PolicyView


@dataclass(frozen=True, slots=True)
class Proof:
    """What the policies do with the traffic that was seen. Each mapping has distinct connections and their counts."""

    allowed: Mapping[Question, Evidence]
    """Observed allows that stay allowed."""
    broken: Mapping[Question, Evidence]
    """Observed allows that would be denied."""
    denied: Mapping[Question, Evidence]
    """Observed denies that stay denied."""
    opened: Mapping[Question, Evidence]
    """Observed denies that would be allowed."""
    unclear: Mapping[Question, Evidence]
    """Connections of which the reference cannot say whether they pass: it depends on an address that the pair does not
    have."""

    @property
    def is_complete(self) -> bool:
        """Whether everything that was allowed stays allowed, and everything that was denied stays denied."""
        return not self.broken and not self.opened


def prove(
    view: PolicyView,
    known: Known,
    traffic: Traffic,
    policies: Iterable[NetworkPolicy],
    namespaces: Iterable[str],
) -> Proof:
    """Judge all traffic under the policies. ``namespaces`` are those whose own NetworkPolicies they replace."""
    judges = _Judges(known, with_recommended(view, policies, namespaces))
    proof = Proof(dict(traffic.always), {}, {}, {}, {})
    for observed, same, other in (
        (traffic.allowed, proof.allowed, proof.broken),
        (traffic.denied, proof.denied, proof.opened),
    ):
        for question, evidence in observed.items():
            found = judges.of(question).judge(question.key)
            is_same = found.passes is (observed is traffic.allowed)
            into = proof.unclear if found.verdict == CANNOT_SAY else same if is_same else other
            into[question] = evidence  # type: ignore[index]  # ours until it is returned
    return proof


class _Judges:
    """A judge for each set of policies that select some subject. The others decide nothing about it, and a namespace
    may have hundreds of them."""

    def __init__(self, known: Known, view: PolicyView) -> None:
        self._known = known
        self._view = view
        self._by_namespace: defaultdict[str, list[NetworkPolicy]] = defaultdict(list)
        for policy in view.policies.values():
            self._by_namespace[policy.namespace].append(policy)
        self._by_subject: dict[str, Judge] = {}
        self._judges: dict[frozenset[Name], Judge] = {}

    def of(self, question: Question) -> Judge:
        """Return the judge for the subject of a question."""
        found = self._by_subject.get(question.subject)
        if found is None:
            found = self._by_subject[question.subject] = self._make(question.subject)
        return found

    def _make(self, number: str) -> Judge:
        profile = self._known.profiles[number]
        chosen = {
            policy.key: policy
            for policy in self._by_namespace[profile.namespace]
            if may_select(policy.pods, profile.labels, left_out_of(profile))
        }
        found = self._judges.get(frozenset(chosen))
        if found is None:
            made = Judge(self._known, replace(self._view, policies=chosen))
            found = self._judges[frozenset(chosen)] = made
        return found
