"""Counts what becomes of millions of flow records that are judged again, asking once for equal ones.

A record is parted into the text that repeats and what differs (:mod:`enrich.wire.flow_text`). For each repeating text
there are spans of time in which the answer is the same, so that all but the first record of a span cost a look-up and
a comparison. Texts are forgotten when they take too much memory; what was counted stays.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from enrich.history.record_question import Judged, Outcome, Question
from enrich.history.verifying import Verifier
from enrich.wire.flow import Flow, decode_flow
from enrich.wire.flow_text import FlowText, nanoseconds, part_flow, time_text

MAX_BYTES: Final = 192 << 20
"""Texts in memory, and what was made of them; at more, all are forgotten."""
_TEXT_BYTES: Final = 600
"""What a text takes beside its bytes, about; and a span."""
MAX_FINDINGS: Final = 10_000
MAX_FINDINGS_BYTES: Final = 64 << 20
"""Combinations that disagree which are listed; further ones are only counted."""
MAX_REASONS: Final = 1_000
"""Distinct reasons for which it cannot be said; further ones are counted together."""
_MAX_REASON: Final = 300
"""Characters of a reason: names in it are those of a record, which may be of any length."""
MAX_EXAMPLES: Final = 3
_LATEST: Final = b"\xff" * 30
"""Behind every time: a record may have any 29 bytes in its place."""
_UNREADABLE_TIME: Final = Judged(Outcome.CANNOT_SAY, 0, 0, "its time cannot be read")


@dataclass(slots=True)
class Finding:
    """Records that disagree with the policies of their time, and differ in nothing but source port, time and id."""

    flow: Flow
    text: str
    """What the policies of the time decide."""
    records: int = 0
    first: bytes = _LATEST
    last: bytes = b""
    examples: list[str] = field(default_factory=list)

    def add(self, other: Finding) -> None:
        """Add further records."""
        self.records += other.records
        self.first, self.last = min(self.first, other.first), max(self.last, other.last)
        self.examples = list(dict.fromkeys((*self.examples, *other.examples)))[:MAX_EXAMPLES]


@dataclass(slots=True)
class Sums:
    """How many records became what."""

    read: int = 0
    outside: int = 0
    """Not of the window, though they were written in it."""
    others: int = 0
    """Of other clusters or namespaces than those that are asked about."""
    unreadable: int = 0
    outcomes: Counter[Outcome] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    """Why it cannot be said."""
    not_judged: Counter[str] = field(default_factory=Counter)
    """Reasons of the records that no policy decided."""
    combinations: int = 0
    """Distinct texts that were judged; those that were forgotten in between are counted again."""
    findings: dict[tuple[bytes, str], Finding] = field(default_factory=dict)
    unlisted: int = 0
    """Records that disagree beyond those of the findings."""

    @property
    def judged(self) -> int:
        """Records about which something is said."""
        return sum(self.outcomes[one] for one in (Outcome.AGREES, Outcome.LATE, Outcome.DISAGREES))

    def add(self, other: Sums) -> None:
        """Add the counts of other records."""
        for name in ("read", "outside", "others", "unreadable", "combinations", "unlisted"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.outcomes.update(other.outcomes)
        self.not_judged.update(other.not_judged)
        for text, records in other.reasons.items():
            self.add_reason(text, records)
        for key, finding in other.findings.items():
            if key in self.findings:
                self.findings[key].add(finding)
            elif len(self.findings) < MAX_FINDINGS:
                self.findings[key] = finding
            else:
                self.unlisted += finding.records

    def add_reason(self, text: str, records: int) -> None:
        """Count records of which nothing can be said, by why."""
        text = text[:_MAX_REASON]
        known = text in self.reasons or len(self.reasons) < MAX_REASONS
        self.reasons[text if known else "further reasons"] += records


class _Span:
    """A time in which all records of one text have one answer."""

    __slots__ = ("judged", "noted", "records", "since", "until")

    def __init__(self, since: bytes, until: bytes, judged: Judged | None) -> None:
        self.since, self.until, self.judged = since, until, judged
        self.records = 0
        self.noted = judged is not None and (judged.is_nodes or judged.outcome is Outcome.DISAGREES)
        """Whether each of its records is noted by itself."""


class _Class:
    """The texts about which one question is asked, and the spans of time of its answers."""

    __slots__ = ("question", "span", "spans", "starts")

    def __init__(self, question: Question | None, since: bytes) -> None:
        """``since``: before it, nothing is judged."""
        self.question = question
        self.span = _Span(b"", since, None)
        self.spans, self.starts = [self.span], [b""]

    def at(self, time: bytes) -> _Span | None:
        """Return the span that a time is in, if there is one."""
        span = self.spans[bisect_right(self.starts, time) - 1]
        return span if span.since <= time < span.until else None

    def add(self, span: _Span) -> None:
        """Add a span beside the others."""
        place = bisect_right(self.starts, span.since)
        self.starts.insert(place, span.since)
        self.spans.insert(place, span)


class Account:
    """Judges records and counts them."""

    def __init__(
        self, verifier: Verifier, cluster: str, window: tuple[int, int], namespaces: frozenset[str] = frozenset()
    ) -> None:
        """``namespaces``: of the subjects; empty: all."""
        self._verifier, self._cluster, self._namespaces = verifier, cluster, namespaces
        self._since, self._until = time_text(window[0]), time_text(window[1] + 1)
        self._texts: dict[bytes, _Class] = {}
        self._bytes = self._findings_bytes = 0
        self._classes: dict[Question, _Class] = {}
        self._others = _Class(None, _LATEST)
        self.sums = Sums()

    def add(self, values: Iterable[bytes]) -> None:
        """Judge some records."""
        texts, count = self._texts, 0
        for value in values:
            count += 1
            if self._bytes > MAX_BYTES:
                self._settle()
            parts = part_flow(value)
            if parts is None:
                self._add_whole(value)
                continue
            repeating, time = parts[0], parts[1]
            found = texts.get(repeating)
            if found is None:
                found = self._new_text(repeating, value)
                if found is None:
                    continue
            span = found.span
            if not span.since <= time < span.until:
                span = found.span = found.at(time) or self._new_span(found, parts)
            if span.noted:
                self._note(value, parts)
            else:
                span.records += 1
        self.sums.read += count

    def finish(self) -> Sums:
        """Return the counts of everything so far."""
        self._settle()
        return self.sums

    # --- texts

    def _new_text(self, repeating: bytes, value: bytes) -> _Class | None:
        """Return what is asked about a text that is not known yet; None if its record cannot be read."""
        try:
            flow = decode_flow(value)
        except ValueError:
            # What cannot be read may be its time or its port, so this says nothing of others with the same text.
            self.sums.unreadable += 1
            return None
        self._bytes += len(repeating) + _TEXT_BYTES
        found = self._texts[repeating] = self._class_of(flow)
        return found

    def _class_of(self, flow: Flow) -> _Class:
        if not self._is_asked(flow):
            return self._others
        self.sums.combinations += 1
        question = self._verifier.question(flow)
        found = self._classes.get(question)
        if found is None:
            found = self._classes[question] = _Class(question, self._since)
        return found

    def _is_asked(self, flow: Flow) -> bool:
        return flow.cluster == self._cluster and (not self._namespaces or flow.subject.namespace in self._namespaces)

    def _new_span(self, found: _Class, parts: FlowText) -> _Span:
        """Judge a question at a time for which it has no answer yet."""
        span = _Span(self._until, _LATEST, None)
        if found.question is not None and parts.time < self._until:
            try:
                judged = self._verifier.answer(found.question, nanoseconds(parts.time))
                edges = time_text(judged.since_ns), time_text(judged.until_ns)
            except ValueError:
                # There is no end of such times; of answers there are as many as changes of policies.
                self._bytes += _TEXT_BYTES
                judged, edges = _UNREADABLE_TIME, (parts.time, parts.time + b"\0")
            span = _Span(max(edges[0], self._since), min(edges[1], self._until), judged)
        found.add(span)
        return span

    # --- counts

    def _settle(self) -> None:
        """Add the counts of all texts up, and forget the texts."""
        self.sums.others += self._others.span.records
        self._others.span.records = 0
        for span in (span for one in self._classes.values() for span in one.spans):
            if span.judged is None:
                self.sums.outside += span.records
            else:
                self._count(span.judged, span.records)
        self._texts.clear()
        self._classes.clear()
        self._verifier.forget()
        self._bytes = 0

    def _count(self, judged: Judged, records: int) -> None:
        if not records:
            return
        self.sums.outcomes[judged.outcome] += records
        if judged.outcome is Outcome.NOT_JUDGED:
            self.sums.not_judged[judged.text] += records
        elif judged.outcome is Outcome.CANNOT_SAY:
            self.sums.add_reason(judged.text, records)

    def _note(self, value: bytes, parts: FlowText) -> None:
        """Note a record that is judged by itself: it seems to disagree, unless it counts packets of a longer time, in
        which policies changed, or it depends on what its node had in force."""
        flow = decode_flow(value)
        try:
            judged = self._verifier.judge(flow, nanoseconds(parts.time), nanoseconds(parts.last_time))
        except ValueError:
            judged = _UNREADABLE_TIME
        self._take(parts.repeating, flow, judged, parts.time)

    def _add_whole(self, value: bytes) -> None:
        """Judge a record that does not have the form in which workers write them."""
        self._bytes += len(value)
        try:
            flow = decode_flow(value)
            time, last_time = (one.removesuffix("Z").encode() for one in (flow.timestamp, flow.last_timestamp))
            at_ns, last_ns = nanoseconds(time), nanoseconds(last_time)
        except (ValueError, UnicodeEncodeError):
            self.sums.unreadable += 1
            return
        if not self._is_asked(flow):
            self.sums.others += 1
        elif not self._since <= time < self._until:
            self.sums.outside += 1
        else:
            self.sums.combinations += 1
            self._take(value, flow, self._verifier.judge(flow, at_ns, last_ns), time)

    def _take(self, key: bytes, flow: Flow, judged: Judged, time: bytes) -> None:
        self._count(judged, 1)
        if judged.outcome is not Outcome.DISAGREES:
            return
        found = self.sums.findings.get((key, judged.text))
        if found is None:
            self._findings_bytes += len(key)
            if len(self.sums.findings) >= MAX_FINDINGS or self._findings_bytes > MAX_FINDINGS_BYTES:
                self.sums.unlisted += 1
                return
            found = self.sums.findings[key, judged.text] = Finding(flow, judged.text)
        found.records += 1
        found.first, found.last = min(found.first, time), max(found.last, time)
        if len(found.examples) < MAX_EXAMPLES and flow.id not in found.examples:
            found.examples.append(flow.id)
