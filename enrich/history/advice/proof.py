"""Proves a recommendation: asks the reference about every connection that was seen, with the policies as printed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from enrich.history.advice.recommend import with_recommended
from enrich.history.advice.traffic import Evidence, Question, Traffic
from enrich.history.judging import CANNOT_SAY, Judge
from enrich.history.stand_ins import Known
from enrich.model import NetworkPolicy
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
    """Of these the reference cannot say: it depends on an address that the pair does not have."""

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
    judge = Judge(known, with_recommended(view, policies, namespaces))
    proof = Proof(dict(traffic.always), {}, {}, {}, {})
    for observed, same, other in (
        (traffic.allowed, proof.allowed, proof.broken),
        (traffic.denied, proof.denied, proof.opened),
    ):
        for question, evidence in observed.items():
            found = judge.judge(question.key)
            is_same = found.passes is (observed is traffic.allowed)
            into = proof.unclear if found.verdict == CANNOT_SAY else same if is_same else other
            into[question] = evidence  # type: ignore[index]  # ours until it is returned
    return proof
