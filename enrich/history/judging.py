"""Judges pairs by policies: what these would decide, or why that is not known.

The judge is :func:`enrich.policy.decide.decide`, the reference for everything. A pair stands for several cases
(:mod:`enrich.history.stand_ins`); it is decided if the policies decide all of them alike. What a pair recorded narrows
its cases down: a case that the policies in force would have decided otherwise was not this pair's.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from enrich.history.stand_ins import Case, CaseMaker, Cases, Known, UnsayableError
from enrich.policy.decide import Decision, decide
from enrich.policy.matching import PolicyView
from enrich.wire.batch import Verdict
from enrich.wire.pair import PairKey
from enrich.wire.references import PolicyRef

CANNOT_SAY: Final = "cannot say"
ALLOW: Final = Verdict.ALLOW.name.lower()
DENY: Final = Verdict.DENY.name.lower()
JUDGED: Final = frozenset(("no_policy", "policy", "default_deny", "explicit_deny", "node", "self"))
"""The reasons that policies give. A verdict with another one was decided by something else."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """What policies decide about a pair."""

    verdict: str
    """allow, deny, audit; or :data:`CANNOT_SAY`."""
    reason: str = ""
    """As in a flow record; empty if the cases of the pair have several, or if the verdict is not known."""
    policies: tuple[PolicyRef, ...] = ()
    """As in a flow record: those of the first case."""
    text: str = ""
    """Why the verdict is not known."""
    case: Case | None = None
    """The first case, to explain the decision with."""

    @property
    def passes(self) -> bool:
        """Whether the connection surely passes; an audited one does."""
        return self.verdict in ("allow", "audit")


class Judge:
    """Judges pairs by the policies of one view."""

    def __init__(self, known: Known, view: PolicyView) -> None:
        self._view = view
        self._cases = CaseMaker(known, [view])
        self._narrowed: dict[str, PolicyView] = {}

    def judge(self, key: PairKey) -> Judgement:
        """Return what the policies decide about a pair."""
        try:
            cases = self._cases.cases_of(key)
        except UnsayableError as error:
            return Judgement(CANNOT_SAY, text=str(error))
        return agreed(cases, list(decisions(cases, self._view_for(key.subject.namespace))))

    def _view_for(self, namespace: str) -> PolicyView:
        found = self._narrowed.get(namespace)
        if found is None:
            found = self._narrowed[namespace] = narrowed(self._view, namespace)
        return found


def narrowed(view: PolicyView, namespace: str) -> PolicyView:
    """Return the view without the NetworkPolicies of other namespaces, which never select a pod of this one."""
    return replace(view, policies={k: policy for k, policy in view.policies.items() if policy.namespace == namespace})


def decisions(cases: Cases, view: PolicyView) -> Iterator[tuple[Case, Decision]]:
    """Yield what the policies of a view decide about each case."""
    for case in cases.cases:
        yield (
            case,
            decide(case.within(view), case.subject, cases.direction, case.peer, cases.protocol, cases.port),
        )


def agreed(cases: Cases, found: Sequence[tuple[Case, Decision]]) -> Judgement:
    """Return the decision about all cases; if there are several, in what the cases differ."""
    case, first = found[0]
    if len({decision.verdict for _, decision in found}) > 1:
        return Judgement(CANNOT_SAY, text=f"it depends on {difference(cases, found)}")
    one_reason = len({decision.reason for _, decision in found}) == 1
    return Judgement(
        first.verdict.name.lower(), first.reason.name.lower() if one_reason else "", first.policies, case=case
    )


def difference(cases: Cases, found: Sequence[tuple[Case, Decision]]) -> str:
    """Return in what cases differ that are decided differently: one dimension alone, where that is enough."""
    texts = []
    for index, text in enumerate(cases.dimensions):
        verdicts: dict[tuple[int, ...], Verdict] = {}
        for case, decision in found:
            others = (*case.assumed[:index], *case.assumed[index + 1 :])
            if verdicts.setdefault(others, decision.verdict) is not decision.verdict:
                texts.append(text)
                break
    return " and ".join(texts) or "what the pair does not keep"


def fits(decision: Decision, key: PairKey, *, exactly: bool) -> bool:
    """Return whether a decision is what a pair recorded; ``exactly`` also with its reason and its policies."""
    if decision.verdict.name.lower() != key.verdict:
        return False
    if not exactly:
        return True
    return decision.reason.name.lower() == key.reason and _unordered(decision.policies) == _unordered(key.policies)


def _unordered(policies: Iterable[PolicyRef]) -> frozenset[PolicyRef]:
    return frozenset(policies)
