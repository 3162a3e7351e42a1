"""Finds a record by its id, without reading all records.

THEORY OF OPERATION

An id is a ring and a number, such as ``4be0a7c9-51838``. It says neither the time nor the partition of the record.

1. The numbers of a ring rise with time, and Kafka's time index finds the records of a time. So the time of a number is
   found by halving. In the middle of what is left, some records of each partition are looked at. Say those of the ring
   have the numbers 70,011 at 10:00:00 and 70,342 at 10:00:02: then 51,838 was before 10:00:00. A day becomes a minute
   in eleven steps.
2. The order is not exact. A denial that counts packets of a while has a number of the end of that while, and a node
   that cannot reach Kafka sends later. So this minute, and two more on each side, are only where to look first.
3. If the record is not there, or if the ring is too quiet to be seen, all other records are read, the newest first. So
   a record that is there is always found.
4. A time that ends in the past ends on Kafka with the first later record of each partition. But anyone who may write to
   the topic chooses the times of records, and a node's clock may be ahead. So what stands behind it is read last, up to
   where the records stay later.

All partitions are read at once, and reading ends with the first hit.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Final, NamedTuple

from enrich.wire.flow import Flow, decode_flow
from streams.kafka.connection import Connection, NoTopicError
from streams.kafka.ranges import RunReader, ends_of, read_runs
from streams.kafka.reading import TopicReader

ID: Final = re.compile(r"[!-.0-~]{1,64}-[0-9]{1,20}")
"""The id of a record."""
_SAMPLE: Final = 200
"""Records of each partition that are looked at in a step."""
_STEPS: Final = 20
_CLOSE_MS: Final = 60_000
"""What halving has come down to is read."""
_MARGIN_MS: Final = 120_000
_LATE_MS: Final = 900_000
"""How much later than the end of the time in question its records may be on Kafka. Where single records are later
still, those behind them are read as well."""
_AT_ONCE: Final = 10_000
"""Records of each partition that are read first, if all must be; then twice as many, and so on."""
_MOST_AT_ONCE: Final = 1_000_000
_SHRINKS: Final = 0.9
_PROGRESS_S: Final = 0.5
Progress = Callable[[str], None]


class Span(NamedTuple):
    """The time in which a record is looked for, in milliseconds since the epoch."""

    since_ms: int
    until_ms: int
    is_past: bool = False
    """Whether it ends before now: then a partition is left where its records become later, and stay later."""


class Found(NamedTuple):
    """A record."""

    flow: Flow
    value: bytes
    """As it is on Kafka."""


def find_record(
    connection: Connection, topics: Sequence[str], record_id: str, span: Span, progress: Progress
) -> Found | None:
    """Return the record with an id, from whichever of the topics has it. Raises ReadError."""
    with ExitStack() as readers:
        opened: dict[str, RunReader] = {}
        missing: NoTopicError | None = None
        for topic in topics:
            try:
                reader = TopicReader(connection, topic)
            except NoTopicError as error:
                missing = missing or error
                continue
            readers.callback(reader.close)
            opened[topic] = reader
        if missing is not None and not opened:
            raise missing
        return search(opened, record_id, span, progress)


def search(readers: Mapping[str, RunReader], record_id: str, span: Span, progress: Progress) -> Found | None:
    """Return the record with an id, from whichever of the topics has it. ``readers``: by topic. Raises ReadError."""
    searches = [RecordSearch(reader, topic, record_id, span, progress) for topic, reader in readers.items()]
    looks = [*(one.near for one in searches), *(one.rest for one in searches)]
    return next((found for look in looks if (found := look()) is not None), None)


class RecordSearch:
    """Looks for a record in one topic."""

    def __init__(self, reader: RunReader, topic: str, record_id: str, span: Span, progress: Progress) -> None:
        """Raises ReadError, as all methods do."""
        self._reader, self._topic, self._id, self._progress = reader, topic, record_id, progress
        ring, _, number = record_id.rpartition("-")
        self._sought, self._ring, self._number = record_id.encode(), f',"id":"{ring}-'.encode(), int(number)
        self._span = span
        self._starts = reader.at_time(max(1, span.since_ms))
        self._until_ms = span.until_ms + _LATE_MS if span.is_past else None
        self._bounds = ends_of(reader)
        later = {} if self._until_ms is None else reader.at_time(self._until_ms)
        self._ends = {one: min(end, later.get(one, end)) for one, end in self._bounds.items()}
        """The offsets of the first later records. Records of the time in question may stand behind them."""
        self._total = sum(max(0, end - self._starts[one]) for one, end in self._ends.items())
        self._read, self._shown = 0, time.monotonic()
        self._searched = self._starts, self._starts
        """The offsets between which :meth:`near` has read everything."""

    def near(self) -> Found | None:
        """Look for the record where its number should be."""
        low, high = self._span[:2]
        for _ in range(_STEPS):
            if high - low <= _CLOSE_MS:
                return self._around(low, high)
            found, seen = self._sample((low + high) // 2)
            if found is not None:
                return found
            before = (at for number, at in seen if number < self._number)
            after = (at for number, at in seen if number > self._number)
            edges = sorted((max([low, *before]), min([high, *after])))
            if edges[1] - edges[0] > _SHRINKS * (high - low):
                break  # the ring is too quiet to be seen here
            low, high = edges
        return None

    def _around(self, low_ms: int, high_ms: int) -> Found | None:
        """Look at all records of a time."""
        begins, ends = (self._reader.at_time(max(1, one)) for one in (low_ms - _MARGIN_MS, high_ms + _MARGIN_MS))
        begin = {one: max(start, begins[one]) for one, start in self._starts.items()}
        end = {one: max(begin[one], min(last, ends[one])) for one, last in self._ends.items()}
        self._searched = begin, end
        return self._in(begin, end)

    def rest(self) -> Found | None:
        """Look for the record in everything else, the newest part first."""
        begin, end = self._searched
        parts = (*_newest_first(end, self._ends), *_newest_first(self._starts, begin))
        found = next((found for part in parts if (found := self._in(*part)) is not None), None)
        return found or self._in(self._ends, self._bounds, self._until_ms)

    def _in(self, begin: Mapping[int, int], end: Mapping[int, int], until_ms: int | None = None) -> Found | None:
        for run in read_runs(self._reader, begin, end, until_ms, topic=self._topic):
            self._read += len(run.values)
            if time.monotonic() - self._shown > _PROGRESS_S:
                self._shown = time.monotonic()
                self._progress(f"{self._read:,} of {max(self._read, self._total):,} records of {self._topic}")
            if (found := self._among(run.values)) is not None:
                return found
        return None

    def _among(self, values: Sequence[bytes]) -> Found | None:
        # Most records are passed over without reading their JSON.
        found = (_read(value) for value in values if self._sought in value)
        return next((one for one in found if one is not None and one.flow.id == self._id), None)

    def _sample(self, at_ms: int) -> tuple[Found | None, list[tuple[int, int]]]:
        """Look at some records of each partition from a time on: return the record if it is there, and the numbers and
        times of those of its ring. A number may be any later one."""
        starts = self._reader.at_time(at_ms)
        ends = {one: min(start + _SAMPLE, self._ends[one]) for one, start in starts.items()}
        if not any(starts[one] < end for one, end in ends.items()):
            return None, [(self._number + 1, at_ms)]  # there is nothing later, and so not the record
        seen = []
        for run in read_runs(self._reader, starts, ends, topic=self._topic):
            if (found := self._among(run.values)) is not None:
                return found, []
            for value, time_ms in zip(run.values, run.times_ms, strict=True):
                number = value.partition(self._ring)[2].partition(b'"')[0]
                if number.isdigit():
                    seen.append((int(number[:20]), time_ms))
        return None, seen


def _newest_first(begin: Mapping[int, int], end: Mapping[int, int]) -> Iterator[tuple[dict[int, int], dict[int, int]]]:
    """Yield parts of a range, the last records of each partition first."""
    until, count = dict(end), _AT_ONCE
    while any(begin[one] < last for one, last in until.items()):
        since = {one: max(begin[one], last - count) for one, last in until.items()}
        yield since, until
        until, count = since, min(2 * count, _MOST_AT_ONCE)


def _read(value: bytes) -> Found | None:
    try:
        return Found(decode_flow(value), value)
    except ValueError:
        return None
