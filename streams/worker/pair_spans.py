"""Keeps for each partition from where to where this worker has counted, for the record that says so.

THEORY OF OPERATION

Readers must know up to which *time* everything is counted, and a worker knows offsets. So it asks Kafka now and then
where the partitions end. Once it has counted up to the end that it was told at 14:03:20, everything that had reached
Kafka by 14:03:20 is counted: whether that were a thousand inputs or none. A worker that is behind says so by that.

The record (:mod:`enrich.wire.pair_coverage`) is written with the counts and marks, in their transaction, and at least
every minute. So the marks are written every minute, too: Kafka forgets those that were not written for a week, also if
nothing came meanwhile.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from enrich.wire.pair_coverage import CountedSpan, Coverage, encode_coverage
from enrich.wire.pair_place import coverage_key

WRITE_S: Final = 60
"""How often it is said how far this worker is, if nothing else is written."""
DAY_S: Final = 86_400
_MAX_SPANS: Final = 2_000
_MAX_SECOND: Final = (1 << 33) - 1


@dataclass(slots=True)
class _Span:
    """A partition that is being counted."""

    since_offset: int
    since_s: int
    until_s: int
    pending_end: tuple[int, int] | None = None
    """When Kafka was asked, and where the partition ended then; None if everything up to there is counted."""


class Spans:
    """What one worker has counted, on its event loop."""

    def __init__(self, cluster: str, now: Callable[[], float]) -> None:
        self._cluster, self._now = cluster, now
        self._open: dict[int, _Span] = {}
        self._waiting: dict[int, float] = {}
        """Since when partitions of this worker are not counted, because it cannot take them over."""
        self._partitions = 0
        self._missed = self._missed_since = self._missed_until = 0
        self._begin_record()

    def clear(self) -> None:
        """Begin a new record, without a partition. Those that were counted wait to be taken over once more."""
        self._waiting |= {partition: span.until_s for partition, span in self._open.items()}
        self._open.clear()
        self._begin_record()

    def begin(self, partition: int, since: int) -> None:
        """Count a partition from an offset on."""
        second = int(self._now())
        self._waiting.pop(partition, None)
        self._open[partition] = _Span(since, second, second)

    def wait(self, partitions: Iterable[int]) -> None:
        """Note partitions that this worker has, and cannot count yet."""
        for partition in partitions:
            self._waiting.setdefault(partition, self._now())

    def end(self, partition: int, mark: int | None = None) -> None:
        """Count a partition no more. ``mark`` is the last one that was written, if there is one."""
        self._waiting.pop(partition, None)
        span = self._open.pop(partition, None)
        if span is not None and mark is not None:
            self._closed.append(_counted(partition, span, mark))

    def leave_out(self, partition: int, mark: int, since: int) -> None:
        """Go on with a partition from a later offset than its mark, because nobody counts what is between."""
        if len(self._closed) <= _MAX_SPANS:  # without its span, the hole is only longer
            self.end(partition, mark)
        self.begin(partition, since)

    def note_ends(self, at: float, ends: Mapping[int, int]) -> None:
        """Take the ends of all partitions of the raw topic, as Kafka had them at a time or later."""
        self._partitions = max(ends, default=-1) + 1
        for partition, span in self._open.items():
            if span.pending_end is None and partition in ends:
                span.pending_end = int(at), ends[partition]

    def note_missed(self, seconds: Any) -> None:
        """Take the times of verdicts that were read and are not counted."""
        first, last = (min(int(one), _MAX_SECOND) for one in (seconds.min(), seconds.max()))
        self._missed_since = min(self._missed_since, first) if self._missed else first
        self._missed_until = max(self._missed_until, last)
        self._missed += len(seconds)

    def advance(self, marks: Mapping[int, int]) -> None:
        """Note up to which offset each partition is counted."""
        for partition, mark in marks.items():
            span = self._open.get(partition)
            if span is not None and span.pending_end is not None and mark >= span.pending_end[1]:
                span.until_s, span.pending_end = max(span.until_s, span.pending_end[0]), None

    @property
    def is_due(self) -> bool:
        """Whether the record is to be written again, although nothing was counted."""
        return bool(self._open) and self._now() - self._written_at >= WRITE_S

    def record(self, marks: Mapping[int, int]) -> tuple[bytes, bytes]:
        """Return the record, as key and value. ``marks`` has every partition that is counted."""
        spans = [*self._closed, *(_counted(one, span, marks[one]) for one, span in self._open.items() if one in marks)]
        partitions = max([self._partitions, *(one + 1 for one in marks)])
        made = Coverage(
            cluster=self._cluster, segment=self._segment, partitions=partitions,
            spans=tuple(spans), missed=self._missed, missed_since=self._missed_since, missed_until=self._missed_until,
        )  # fmt: skip
        return coverage_key(self._cluster, self._segment), encode_coverage(made)

    def written(self, marks: Mapping[int, int]) -> None:
        """Note that Kafka has the record of these marks; begin a new one where it is time."""
        self._written_at = self._now()
        if self._now() - self._began > DAY_S or len(self._closed) > _MAX_SPANS:
            self._begin_record()
            for partition, span in self._open.items():
                # A span that began after the record was made stays as it is.
                span.since_offset = max(span.since_offset, marks.get(partition, 0))
                span.since_s = span.until_s

    def behind_s(self) -> float:
        """Return how many seconds up to now are not counted of some partition (any thread)."""
        untils = [span.until_s for span in list(self._open.values())]
        return max(0.0, self._now() - min([*untils, *list(self._waiting.values())], default=self._now()))

    def _begin_record(self) -> None:
        self._segment = secrets.token_hex(8)
        self._began = self._now()
        self._written_at = 0.0
        self._missed = self._missed_since = self._missed_until = 0
        self._closed: list[CountedSpan] = []


def _counted(partition: int, span: _Span, mark: int) -> CountedSpan:
    return CountedSpan(partition, span.since_offset, max(mark, span.since_offset), span.since_s, span.until_s)
