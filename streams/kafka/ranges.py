"""Reads a range of a topic: from some offsets up to others, or up to a time."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Final, Protocol

from streams.kafka.connection import ReadError
from streams.kafka.records import Record, Run

_RECORDS_PER_READ: Final = 5000
_QUIET_S: Final = 0.2
_PATIENCE_S: Final = 60.0
"""How long Kafka may send nothing of a range that is not read to its end."""
_LATER_RECORDS: Final = 10_000
"""So many records one after the other that are later than the end of a time mean that the rest of a partition is later,
too. Single ones do not: a node's clock may be ahead."""


class Reader(Protocol):
    """Reads a topic; see :class:`streams.kafka.reading.TopicReader`."""

    def bounds(self) -> dict[int, tuple[int, int]]: ...

    def at_time(self, timestamp_ms: int) -> dict[int, int]: ...

    def start(self, offsets: Mapping[int, int]) -> None: ...

    def take(self, most: int, wait_s: float) -> list[Record]: ...

    def skip(self, partitions: Collection[int]) -> None: ...

    def ended(self) -> Collection[int]: ...


def ends_of(reader: Reader) -> dict[int, int]:
    """Return where each partition ends now: the offset that its next record will have."""
    return {partition: end for partition, (_, end) in reader.bounds().items()}


class RunReader(Reader, Protocol):
    """A reader that gives runs, too."""

    def take_runs(self, most: int, wait_s: float) -> list[Run]: ...


def read_range(
    reader: Reader,
    start: Mapping[int, int],
    ends: Mapping[int, int],
    until_ms: int | None = None,
    patience_s: float = _PATIENCE_S,
    topic: str = "the topic",
    left_early: set[int] | None = None,
) -> Iterator[Record]:
    """Yield all records from ``start`` up to, not including, ``ends``. Both are offsets by partition.

    ``until_ms``: a partition is left where its records have become later than this Unix time, and stay later;
    ``left_early`` then has its number. Raises ReadError if Kafka cannot be reached, or if it sends nothing for
    ``patience_s``; ``topic`` is its name there."""
    rest = _Rest(reader, start, ends, until_ms, patience_s, topic, left_early)
    while rest.ends:
        taken = reader.take(_RECORDS_PER_READ, _QUIET_S)
        rest.check_progress(taken)
        for record in taken:
            end = rest.ends.get(record.partition)
            if end is None:
                continue
            if record.offset < end:
                yield record
            rest.pass_record(record.partition, record.offset, record.timestamp_ms)
        rest.drop_ended()


def read_runs(
    reader: RunReader,
    start: Mapping[int, int],
    ends: Mapping[int, int],
    until_ms: int | None = None,
    patience_s: float = _PATIENCE_S,
    topic: str = "the topic",
    left_early: set[int] | None = None,
) -> Iterator[Run]:
    """Yield what :func:`read_range` does, as runs of at least one record."""
    rest = _Rest(reader, start, ends, until_ms, patience_s, topic, left_early)
    while rest.ends:
        taken = reader.take_runs(_RECORDS_PER_READ, _QUIET_S)
        rest.check_progress(taken)
        for run in taken:
            if inside := rest.pass_run(run):
                yield run.first(inside)
        rest.drop_ended()


class _Rest:
    """What is still to be read of a range."""

    def __init__(
        self, reader: Reader, start: Mapping[int, int], ends: Mapping[int, int], until_ms: int | None,
        patience_s: float, topic: str, left_early: set[int] | None,
    ) -> None:  # fmt: skip
        self._reader, self._until_ms, self._topic, self._left_early = reader, until_ms, topic, left_early
        self._patience_s, self._deadline = patience_s, time.monotonic() + patience_s
        self.ends = {partition: end for partition, end in ends.items() if start[partition] < end}
        """The ends of the partitions that are still read."""
        self._later = dict.fromkeys(self.ends, 0)
        reader.start({partition: start[partition] for partition in self.ends})

    def check_progress(self, taken: Sequence[object]) -> None:
        """Look what retention has removed, if nothing came. Raises ReadError if nothing has come for too long."""
        if taken:
            self._deadline = time.monotonic() + self._patience_s
        else:
            # Records that retention has removed meanwhile never come. This also raises if Kafka is unreachable.
            bounds = self._reader.bounds()
            self.ends = {partition: end for partition, end in self.ends.items() if bounds[partition][0] < end}
        if time.monotonic() > self._deadline:
            raise ReadError(
                f"{self._topic} cannot be read to its end: Kafka has sent nothing for {self._patience_s:g} s"
            )

    def pass_record(self, partition: int, offset: int, timestamp_ms: int) -> None:
        """Note that a record of a partition that is still read was taken."""
        if offset >= self.ends[partition] - 1:
            self._leave(partition)
        elif self._until_ms is not None:
            self._later[partition] = self._later[partition] + 1 if timestamp_ms > self._until_ms else 0
            if self._later[partition] >= _LATER_RECORDS:
                self._leave(partition)
                if self._left_early is not None:
                    self._left_early.add(partition)

    def _leave(self, partition: int) -> None:
        del self.ends[partition]
        if self.ends:
            # Else Kafka would go on to send what stands behind the range.
            self._reader.skip([partition])

    def pass_run(self, run: Run) -> int:
        """Note that a run was taken; return how many of its first records are of the range."""
        end = self.ends.get(run.partition)
        if end is None:
            return 0
        inside = bisect_left(run.offsets, end)
        if self._until_ms is None:
            self.pass_record(run.partition, run.offsets[-1], 0)
            return inside
        for place, (offset, time_ms) in enumerate(zip(run.offsets, run.times_ms, strict=True)):
            if run.partition not in self.ends:
                return min(place, inside)
            self.pass_record(run.partition, offset, time_ms)
        return inside

    def drop_ended(self) -> None:
        """Drop the partitions that were read to their end."""
        # The last offsets may be a transaction's mark, or compacted: no record ever comes from there.
        for partition in self._reader.ended():
            self.ends.pop(partition, None)
