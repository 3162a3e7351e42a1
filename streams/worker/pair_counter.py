"""Counts pairs in memory, so that what is counted of a partition always ends at one offset.

THEORY OF OPERATION

What the verdicts of an input add to the counts is kept with the input when they are rendered, and added when the input
is acknowledged. Inputs of a partition are acknowledged in the order of their offsets. So the counts of a partition have
all verdicts before one offset, its *mark*, and none after it: an input of which one verdict still waits for its pod's
name is not in the counts, nor is any later one.

Both steps are put off until there are many verdicts, or until counts are written, because each takes a fraction of the
time for many (:mod:`streams.worker.pair_numbering`).

Counts and marks are written together (:mod:`streams.kafka.marked_writes`). A partition that this worker has got is
counted from its mark on: inputs before it are in the counts of a former owner.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from enrich.render.flow_columns import FlowColumns
from enrich.wire.pair_coverage import ALL_CLUSTERS
from streams.metrics.pairs import PairMetrics
from streams.worker.inflight import TrackedInput
from streams.worker.pair_limits import HourLimits
from streams.worker.pair_numbering import CountedPart, Numbering
from streams.worker.pair_segment import SECONDS_PER_HOUR, Changes, Segment
from streams.worker.pair_spans import Spans

MAX_LATE_S: Final = 25 * SECONDS_PER_HOUR
MAX_EARLY_S: Final = SECONDS_PER_HOUR
SEGMENT_S: Final = 86_400.0
MAX_BYTES: Final = 128 << 20
"""Bytes of a segment; at more, a new one begins."""
_MAX_CLUSTERS: Final = 16
_ADD_AT: Final = 65_536
"""Acknowledged verdicts that are collected before they are added to the counts together."""


@dataclass(slots=True)
class _Partition:
    """A partition that this worker counts."""

    mark: int
    """Up to where everything is counted, here or by a former owner."""
    written: int | None = None
    """The mark as this worker has written it last."""
    is_released: bool = False
    """Whether the partition is given to another worker, which counts everything after the last write."""


@dataclass(slots=True)
class Write:
    """What one transaction writes."""

    records: list[tuple[bytes, bytes]]
    marks: dict[int, int]
    reached: dict[int, int]
    """The marks of all partitions, as the record of coverage has them."""
    changes: list[tuple[Segment, Changes]] = field(default_factory=list)


class PairCounter:
    """The counts of one worker, on its event loop."""

    def __init__(
        self,
        limit: int,
        metrics: PairMetrics,
        now: Callable[[], float] = time.time,
        cluster: str = "",
        on_failed: Callable[[int, Exception], None] = lambda _verdicts, _error: None,
    ) -> None:
        """``limit``: combinations that are told apart in an hour. ``cluster``: the only one whose batches are counted;
        empty: all are. ``on_failed`` gets the number of verdicts that could not be counted, and the error."""
        self.spans = Spans(cluster or ALL_CLUSTERS, now)
        self._metrics, self._now, self._limit = metrics, now, limit
        self._limits = HourLimits(limit, lambda why: metrics.folded.labels(why).inc())
        self._hour = 0
        self._segments: dict[str, Segment] = {}
        self._changed: dict[str, Segment] = {}
        """Segments with counts that are not written yet, by id. The last ones may still be counted in."""
        self._partitions: dict[int, _Partition] = {}
        self._numbering = Numbering(self._segment, on_failed)
        self._finished: list[TrackedInput] = []
        """Inputs that are acknowledged, in the order in which they were."""
        self._acknowledged: list[CountedPart] = []
        self._unadded = 0

    # --- verdicts

    def count(self, inputs: Sequence[TrackedInput], columns: FlowColumns) -> None:
        """Keep with each input what its records add to the counts."""
        if not self._partitions:
            return  # nothing of it would ever be written, and so the combinations would never be forgotten
        self._begin_hour()
        self._numbering.add(inputs, columns)

    def finish(self, tracked: TrackedInput) -> None:
        """Take what was kept with an input that is acknowledged."""
        self._finished.append(tracked)
        self._unadded += tracked.verdicts + 1
        if self._unadded > _ADD_AT:
            self._add()

    # --- partitions

    def begin(self, partition: int, since: int) -> None:
        """Count a partition from an offset on."""
        self._take_finished()
        self._partitions[partition] = _Partition(since)
        self.spans.begin(partition, since)

    def forget(self, partitions: Collection[int] = ()) -> None:
        """Stop to count these partitions; what is not written is dropped by :meth:`abandon`."""
        self._take_finished()
        for partition in partitions:
            known = self._partitions.pop(partition, None)
            self.spans.end(partition, known.written if known is not None else None)

    @property
    def partitions(self) -> list[int]:
        """The partitions that are counted."""
        return list(self._partitions)

    def counts(self, partition: int) -> bool:
        """Return whether a partition is counted."""
        return partition in self._partitions

    def abandon(self) -> None:
        """Drop all that is not written, with all partitions. What was written stays."""
        self._partitions.clear()
        self.spans.clear()
        self._segments.clear()
        self._changed.clear()
        self._acknowledged.clear()
        self._finished.clear()
        self._numbering.drop_all()
        self._unadded = 0

    # --- writes

    def take_write(self, released: Collection[int] = ()) -> Write | None:
        """Return what is not written yet, and the marks that have moved or are to be released; None for nothing."""
        self._add()
        own = {number: one.mark for number, one in self._partitions.items()}
        self.spans.advance(own)
        is_due = self.spans.is_due
        moved = {
            number: one.mark
            for number, one in self._partitions.items()
            if one.mark != one.written or (is_due and not one.is_released)
        }
        marks = moved | {number: self._partitions[number].mark for number in released if number in self._partitions}
        for number in released:
            if number in self._partitions:
                self._partitions[number].is_released = True
        write = Write([], marks, own)
        for segment in self._changed.values():
            changes, records = segment.take_changes()
            write.records += records
            write.changes.append((segment, changes))
        self._changed.clear()
        if not write.records and not write.marks:
            return None
        write.records.append(self.spans.record(own))
        return write

    def written(self, write: Write) -> None:
        """Note that Kafka has a write, and begin new segments where it is time."""
        for number, mark in write.marks.items():
            if number in self._partitions:
                self._partitions[number].written = mark
        self._metrics.written.inc(len(write.records))
        self.spans.written(write.reached)
        for cluster, segment in list(self._segments.items()):
            full = segment.memory > MAX_BYTES or segment.is_full or len(segment.combinations.keys) > self._limit
            if full or self._now() - segment.began > SEGMENT_S or segment.combinations.classes > 4 * self._limit:
                # Inputs in flight keep it until they are acknowledged.
                del self._segments[cluster]

    def not_written(self, write: Write) -> None:
        """Keep what a failed write had for the next one."""
        for segment, changes in write.changes:
            segment.give_back(changes)
            self._changed[segment.id] = segment

    @property
    def memory(self) -> int:
        """About how many bytes of memory the counts take."""
        kept = {segment.id: segment for segment in (*self._segments.values(), *self._changed.values())}
        return sum(segment.memory for segment in kept.values())

    @property
    def verdicts(self) -> int:
        """How many verdicts the segments in memory have counted."""
        return sum(segment.verdicts for segment in self._segments.values())

    @property
    def combinations(self) -> int:
        """How many combinations are in memory."""
        return sum(len(segment.combinations.keys) for segment in self._segments.values())

    # --- inside

    def _begin_hour(self) -> None:
        """Begin the limits of a new hour. What waits belongs to the hour before, and gets its numbers first."""
        hour = int(self._now()) // SECONDS_PER_HOUR
        # While writes fail, a segment does not end, and the combinations of each new hour would add to the ones before,
        # until the worker has no memory left. So the limits of the last hour go on until there is room again.
        if hour == self._hour or self.memory > MAX_BYTES:
            return
        self._numbering.number_all()
        self._hour = hour
        self._limits.begin_hour()
        for one in self._segments.values():
            one.combinations.begin_hour()

    def _segment(self, cluster: str) -> Segment:
        segment = self._segments.get(cluster)
        if segment is not None and self._now() - segment.began > SEGMENT_S:
            # A worker without partitions has written nothing for long, and readers do not look for names so far back.
            del self._segments[cluster]
            segment = None
        if segment is None:
            if len(self._segments) >= _MAX_CLUSTERS:
                raise ValueError(f"pairs of more than {_MAX_CLUSTERS} clusters cannot be counted")
            segment = self._segments[cluster] = Segment(cluster, self._limits, self._now(), self._limit)
        return segment

    def _take_finished(self) -> None:
        """Move the marks past the inputs that are acknowledged."""
        finished, self._finished = self._finished, []
        if finished:
            self._numbering.number_all()
        for tracked in finished:
            self._take(tracked)

    def _take(self, tracked: TrackedInput) -> None:
        partition, parts, tracked.pairs = self._partitions.get(tracked.partition), tracked.pairs or (), None
        if partition is None or partition.is_released or tracked.offset < partition.mark:
            return
        if tracked.offset > partition.mark:
            # Retention has removed what is between, unread (a record ``expired`` says so).
            self.spans.leave_out(tracked.partition, partition.mark, tracked.offset)
        if tracked.uncounted:
            self.spans.leave_out(tracked.partition, tracked.offset, tracked.offset + 1)
        partition.mark = tracked.offset + 1
        for part in parts:
            self._acknowledged += part.counted()

    def _add(self) -> None:
        """Add what is acknowledged to the counts."""
        self._take_finished()
        by_segment: dict[str, list[CountedPart]] = {}
        for part in self._acknowledged:
            by_segment.setdefault(part.segment.id, []).append(part)
        self._acknowledged, self._unadded = [], 0
        now = self._now()
        for number, parts in by_segment.items():
            counted = parts[0].counted if len(parts) == 1 else np.concatenate([part.counted for part in parts], 1)
            if counted[2].min() <= now - MAX_LATE_S or counted[2].max() >= now + MAX_EARLY_S:
                fresh = (counted[2] > now - MAX_LATE_S) & (counted[2] < now + MAX_EARLY_S)
                self._metrics.missed.labels("late").inc(counted.shape[1] - int(fresh.sum()))
                self.spans.note_missed(counted[2][~fresh])
                counted = counted[:, fresh]
            if counted.shape[1]:
                parts[0].segment.add(counted)
                self._changed[number] = parts[0].segment
                self._metrics.counted.inc(counted.shape[1])


def starts_of(
    marks: Mapping[int, Any], committed: Mapping[int, int | None], max_replayed: int
) -> dict[int, tuple[int, int]]:
    """Return, for each partition, from which offset on it is counted, and how many offsets are missed before that.

    ``committed`` has the offset from which on the partition is read. What retention has removed is missed, too."""
    starts: dict[int, tuple[int, int]] = {}
    for partition, offset in committed.items():
        mark, read_from = marks[partition], offset or 0
        if mark.offset is None or mark.offset > mark.end:
            # It was not counted yet, or Kafka has forgotten that, or the topic was made again.
            starts[partition] = (max(read_from, mark.first) if read_from <= mark.end else mark.first), 0
            continue
        earliest = max(mark.first, read_from - max_replayed)
        since = mark.offset if mark.offset >= read_from else min(read_from, max(mark.offset, earliest))
        since = max(since, mark.first)
        starts[partition] = since, since - mark.offset
    return starts
