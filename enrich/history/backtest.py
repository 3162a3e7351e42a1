"""Backtests a change of policies: what would have become of the pairs of a window, had the change been in force."""

from __future__ import annotations

import enum
from collections.abc import Iterator
from typing import Final

import msgspec

from enrich.explain.accounts import PolicyAccount, display_name
from enrich.explain.one_end import EndDecision, end_decision
from enrich.history.comparing import Comparer, Prediction
from enrich.history.judging import ALLOW, DENY
from enrich.policy.decide import Traffic
from enrich.wire.batch import Verdict
from enrich.wire.pair import MAX_EXAMPLES, Pair, PairEnd, PairKey
from enrich.wire.references import PolicyRef

_MAX_FINDINGS: Final = 100_000
"""Distinct findings of one outcome. Of further ones only the sums are kept."""


class Outcome(enum.Enum):
    """What would have become of a pair."""

    NEWLY_DENIED = "newly denied"
    NEWLY_ALLOWED = "newly allowed"
    UNCHANGED = "unchanged"
    CANNOT_SAY = "cannot say"


class Question(msgspec.Struct, frozen=True, omit_defaults=True):
    """Which connections a finding is about."""

    subject: PairEnd
    peer: PairEnd
    direction: str
    protocol: int
    port: int


class Finding(msgspec.Struct, omit_defaults=True, kw_only=True):
    """What would have become of some connections. Times are nanoseconds of the wall clock."""

    outcome: Outcome
    question: Question
    verdict: str
    """What was recorded."""
    reason: str
    policies: tuple[PolicyRef, ...] = ()
    connections: int = 0
    """Verdicts: of allows each is a connection, of denies each counts the packets of a flow for a while."""
    packets: int = 0
    first_ns: int
    last_ns: int
    examples: tuple[str, ...] = ()
    """Ids of records."""
    would: str = ""
    """The verdict that the changed policies give; empty if it is not known."""
    would_reason: str = ""
    would_policies: tuple[PolicyRef, ...] = ()
    text: str = ""
    """Why the verdict is not known; or the new verdict in words."""
    failed: tuple[str, ...] = ()
    """For a new denial: each rule that does not match, and which of its terms fails."""

    def add(self, pair: Pair) -> None:
        """Add the counts of a pair."""
        self.connections += pair.verdicts
        self.packets += pair.packets
        self.first_ns = min(self.first_ns, pair.first_ns)
        self.last_ns = max(self.last_ns, pair.last_ns)
        if len(self.examples) < MAX_EXAMPLES:
            self.examples = tuple(dict.fromkeys((*self.examples, *pair.examples)))[:MAX_EXAMPLES]


class Sum(msgspec.Struct):
    """The sums of one outcome."""

    findings: int = 0
    connections: int = 0


_Place = tuple[Question, Outcome, str, str]


class Backtest:
    """Takes the pairs of one cluster, and gives findings."""

    def __init__(self, comparer: Comparer, *, for_reader: bool = False) -> None:
        """``for_reader``: the findings are for somebody who may see the subjects' namespace only. Of other namespaces
        they say only what pairs say: they leave out labels and ports there, and rules of the whole cluster."""
        self._comparer, self._for_reader = comparer, for_reader
        self._findings: dict[_Place, Finding] = {}
        self._predictions: dict[_Place, Prediction] = {}
        self._unchanged: set[int] = set()
        """Hashes of the questions whose answer is unchanged, to count them: there are far more than of the others."""
        self.sums = {outcome: Sum() for outcome in Outcome}
        self.audited = 0
        """Connections that would newly be audited: they pass, and are among the unchanged."""

    def add(self, pair: Pair) -> None:
        """Add the counts of a combination in an hour."""
        key = pair.key
        prediction = self._comparer.compare(pair)
        outcome = _outcome(key, prediction)
        self.sums[outcome].connections += pair.verdicts
        question = _question(key)
        if outcome is Outcome.UNCHANGED:
            if (number := hash(question)) not in self._unchanged:
                self._unchanged.add(number)
                self.sums[outcome].findings += 1
            audited = prediction.decision is not None and prediction.decision.verdict is Verdict.AUDIT
            self.audited += pair.verdicts if audited and key.verdict == ALLOW else 0
            return
        place = (question, outcome, key.verdict, prediction.text)
        finding = self._findings.get(place)
        if finding is None:
            self.sums[outcome].findings += 1
            if len(self._findings) >= _MAX_FINDINGS:
                return
            finding = self._findings[place] = Finding(
                outcome=outcome, question=question, verdict=key.verdict, reason=key.reason, policies=key.policies,
                text=prediction.text, first_ns=pair.first_ns, last_ns=pair.last_ns,
            )  # fmt: skip
        self._predictions[place] = prediction
        finding.add(pair)

    @property
    def is_unsaid(self) -> bool:
        """Whether a pair that was not denied has the outcome `cannot say`."""
        return any(one.outcome is Outcome.CANNOT_SAY and one.verdict != DENY for one in self._findings.values())

    def findings(self, most: int | None = None) -> Iterator[Finding]:
        """Yield everything that is not unchanged: denials first, and of each outcome the most connections first.

        ``most``: at most so many. To explain a hundred thousand takes minutes."""
        order = list(Outcome)
        found = sorted(
            self._findings.items(),
            key=lambda one: (order.index(one[1].outcome), -one[1].connections, -one[1].last_ns, repr(one[1].question)),
        )
        for place, finding in found[:most]:
            _explain(finding, self._predictions[place], for_reader=self._for_reader)
            yield finding


def _question(key: PairKey) -> Question:
    ends = (_without_profile(key.subject), _without_profile(key.peer))
    return Question(*ends, key.direction, key.protocol, key.port)


def _without_profile(end: PairEnd) -> PairEnd:
    """Return the end without the number of its profile: pods of one workload with other labels are one line."""
    return msgspec.structs.replace(end, profile="") if end.profile else end


def _outcome(key: PairKey, prediction: Prediction) -> Outcome:
    if prediction.passes is None:
        return Outcome.CANNOT_SAY
    if prediction.passes is (key.verdict != DENY):
        return Outcome.UNCHANGED
    return Outcome.NEWLY_ALLOWED if prediction.passes else Outcome.NEWLY_DENIED


def _explain(finding: Finding, prediction: Prediction, *, for_reader: bool) -> None:
    """Say what the changed policies decide, and why."""
    decision, case, cases, view = prediction.decision, prediction.case, prediction.cases, prediction.view
    if decision is None or case is None or cases is None or view is None:
        return
    finding.would = decision.verdict.name.lower()
    finding.would_reason = decision.reason.name.lower()
    finding.would_policies = decision.policies
    traffic = Traffic(case.subject, cases.direction, case.peer, cases.protocol, cases.port)
    explained = end_decision(case.within(view), traffic)
    finding.text = explained.text
    if finding.outcome is Outcome.NEWLY_DENIED:
        finding.failed = tuple(_failed(explained, finding.question, for_reader=for_reader))


def _failed(explained: EndDecision, question: Question, *, for_reader: bool) -> Iterator[str]:
    """Yield the terms that fail of each rule of the policies that decided."""
    hides_peer = for_reader and question.peer.namespace not in ("", question.subject.namespace)
    for tier in explained.tiers:
        for account in tier.policies:
            # A policy without a namespace is of the whole cluster.
            if account.decided and (account.namespace or not for_reader):
                yield from _failed_rules(account, hides_peer=hides_peer)


def _failed_rules(account: PolicyAccount, *, hides_peer: bool) -> Iterator[str]:
    name = display_name(account)
    if not account.rules:
        yield f"{name} has no rule of this direction, so it allows nothing"
    for rule in account.rules:
        if rule.matched:
            yield f"{name} rule {rule.rule}: {rule.text}"
        for one in rule.failed:
            text = one.text if one.term == "ports" else f"{one.term} {one.text}"
            if hides_peer:
                # What is required is the reader's own; what the peer has instead, or calls its ports, is not.
                text = text.partition(" (" if one.term == "ports" else ", but ")[0]
            yield f"{name} rule {rule.rule}: {text}"
