"""Compares what a pair recorded with what policies of its time decide, and with what a change of them would decide.

THEORY OF OPERATION

1. A pair has a first and a last time. The timeline cuts this span into stretches in which nothing changed that the
   verdict depends on. An example: the pair was allowed from 10:00:03 to 10:41:20, and a policy changed at 10:20:00;
   there are two stretches.
2. The policies of a stretch *explain* the pair if, for some of its cases (:mod:`enrich.history.stand_ins`), they give
   the verdict, the reason and the policies that were recorded. Stretches that do not are none of this pair's: the other
   verdicts of that time are counted by another pair. Where no stretch explains all of it, one that gives the verdict is
   taken.
3. The kernel has a new policy some time after the API server, and the journal may learn of it before or after the
   kernel. So the stretches a little before and after the span are asked, too.
4. If nothing explains the pair, its verdict disagrees with the policies of its time. Then what another policy
   would have done is not known.
5. What the change would decide is asked for those stretches and cases only.
"""

from __future__ import annotations

import enum
import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from enrich.history.change import Change
from enrich.history.judging import DENY, JUDGED, decisions, difference, fits
from enrich.history.stand_ins import Case, CaseMaker, Cases, Known, UnsayableError
from enrich.history.timeline import Scope, Segment, Timeline
from enrich.policy.decide import Decision
from enrich.policy.matching import PolicyView
from enrich.wire.pair import Pair, PairKey

SECOND_NS: Final = 1_000_000_000
BEFORE_NS: Final = 60 * SECOND_NS
"""How much later than the journal says a policy may be in force: the kernel learns of it last."""
AFTER_NS: Final = 30 * SECOND_NS
"""How much earlier it may be in force, because the journal may learn of a change later than a node does."""
_MAX_REMEMBERED: Final = 500_000


class Agreement(enum.IntEnum):
    """How far the policies of a time explain what was recorded."""

    NOTHING = 0
    VERDICT = 1
    """The verdict, but not its reason or its policies."""
    ALL = 2


@dataclass(frozen=True, slots=True)
class Prediction:
    """What would have become of a pair."""

    passes: bool | None
    """Whether its connections would pass; None: it is not known."""
    text: str = ""
    """Why it is not known whether they would pass."""
    agreement: Agreement = Agreement.NOTHING
    """How far the policies of the time explain what was recorded."""
    decision: Decision | None = None
    """What the changed policies decide about the first case."""
    case: Case | None = None
    cases: Cases | None = None
    view: PolicyView | None = None
    """The changed policies."""


@dataclass(frozen=True, slots=True)
class _Views:
    before: PolicyView
    after: PolicyView
    maker: CaseMaker


class Comparer:
    """Compares pairs of one cluster. Equal questions are asked once."""

    def __init__(self, timeline: Timeline, known: Known, change: Change) -> None:
        self._timeline, self._known, self._change = timeline, known, change
        self._node_ips = frozenset(ip for node in timeline.all_nodes() for ip in node.all_ips)
        self._views: dict[object, _Views] = {}
        self._remembered: dict[tuple[PairKey, object], Prediction] = {}

    def compare(self, pair: Pair) -> Prediction:
        """Return what would have become of a pair, had the change been in force."""
        key = pair.key
        if key.verdict not in ("allow", "deny", "audit"):
            return Prediction(None, "the verdict is not known")
        if key.verdict == DENY and key.reason not in JUDGED:
            # Nothing that policies say would let such a packet pass: it was forged, or could not be parsed.
            return Prediction(passes=False, agreement=Agreement.ALL)
        scope = self._scope(key)
        # The times of a pair are those of whole seconds.
        since, until = pair.first_ns, pair.last_ns + SECOND_NS - 1
        if not self._timeline.segments(scope, since, until):
            return Prediction(None, self._timeline.unknown(scope, since, until))
        segments = self._timeline.segments(scope, max(0, since - BEFORE_NS), until + AFTER_NS)
        found = _together([self._predict(key, segment) for segment in segments])
        if found.agreement is Agreement.NOTHING and not found.text:
            return Prediction(None, "the policies of its time decide otherwise than it was recorded")
        return found

    def _scope(self, key: PairKey) -> Scope:
        block = key.peer.block
        nodes = bool(key.peer.node) or key.peer.coarse or (bool(block) and _first_address(block) in self._node_ips)
        return Scope(key.subject.namespace, key.peer.namespace if key.peer.profile else "", nodes)

    def _predict(self, key: PairKey, segment: Segment) -> Prediction:
        remembered = self._remembered.get((key, segment.state))
        if remembered is None:
            if len(self._remembered) >= _MAX_REMEMBERED:
                self._remembered.clear()
            remembered = self._remembered[key, segment.state] = self._predict_by(key, self._views_of(segment))
        return remembered

    def _views_of(self, segment: Segment) -> _Views:
        views = self._views.get(segment.state)
        if views is None:
            after = self._change.applied(segment.view)
            maker = CaseMaker(self._known, [segment.view, after])
            views = self._views[segment.state] = _Views(segment.view, after, maker)
        return views

    def _predict_by(self, key: PairKey, views: _Views) -> Prediction:
        try:
            cases = views.maker.cases_of(key)
        except UnsayableError as error:
            return Prediction(None, str(error))
        before = [decision for _, decision in decisions(cases, views.before)]
        agreement = Agreement.NOTHING
        for agreement in (Agreement.ALL, Agreement.VERDICT):
            exactly = agreement is Agreement.ALL and key.reason in JUDGED
            chosen = [fits(decision, key, exactly=exactly) for decision in before]
            if any(chosen):
                break
        else:
            return Prediction(None)
        after = [found for found, is_its in zip(decisions(cases, views.after), chosen, strict=True) if is_its]
        case, first = after[0]
        if len({decision.allowed for _, decision in after}) > 1:
            return Prediction(None, f"it depends on {difference(cases, after)}", agreement)
        return Prediction(first.allowed, "", agreement, first, case, cases, views.after)


def _together(found: Iterable[Prediction]) -> Prediction:
    """Return what the stretches say that explain the pair best."""
    found = list(found)
    best = max((one.agreement for one in found), default=Agreement.NOTHING)
    chosen = [one for one in found if one.agreement is best]
    if not chosen:
        return Prediction(None)
    # The last one: what a person reads is about the latest policies that explain the pair.
    last = chosen[-1]
    if any(one.passes is not last.passes for one in chosen):
        return Prediction(None, "it depends on which of the policies of its time decided", best)
    return last


def _first_address(block: str) -> str:
    return str(ipaddress.ip_network(block).network_address)
