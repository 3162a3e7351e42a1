"""Reads a range of a topic: from some offsets up to others, or up to a time."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping
from typing import Final, Protocol

from streams.kafka.connection import ReadError
from streams.kafka.records import Record

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
    left = {partition: end for partition, end in ends.items() if start[partition] < end}
    later = dict.fromkeys(left, 0)
    reader.start({partition: start[partition] for partition in left})
    deadline = time.monotonic() + patience_s
    while left:
        taken = reader.take(_RECORDS_PER_READ, _QUIET_S)
        if taken:
            deadline = time.monotonic() + patience_s
        else:
            # Records that retention has removed meanwhile never come. This also raises if Kafka is unreachable.
            bounds = reader.bounds()
            left = {partition: end for partition, end in left.items() if bounds[partition][0] < end}
        if time.monotonic() > deadline:
            raise ReadError(f"{topic} cannot be read to its end: Kafka has sent nothing for {patience_s:g} s")
        for record in taken:
            end = left.get(record.partition)
            if end is None:
                continue
            if record.offset < end:
                yield record
            if record.offset >= end - 1:
                del left[record.partition]
            elif until_ms is not None:
                later[record.partition] = later[record.partition] + 1 if record.timestamp_ms > until_ms else 0
                if later[record.partition] >= _LATER_RECORDS:
                    del left[record.partition]
                    reader.skip([record.partition])
                    if left_early is not None:
                        left_early.add(record.partition)
        # The last offsets may be a transaction's mark, or compacted: no record ever comes from there.
        for partition in reader.ended():
            left.pop(partition, None)
