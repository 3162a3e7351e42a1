"""Reads only the partitions that some keys are in.

THEORY OF OPERATION

Example: ``weir observe --subject shop/web-0`` on a topic with 32 partitions.

1. All records of the pod have the key ``shop/web-0``, and the partitioner puts it into partition 7. So the others need
   not be read.
2. Unless somebody has added partitions since then: ``kafka-topics --alter`` moves keys, and older records of the pod
   are elsewhere. Kafka does not say when that was. But partitions are only ever added, so if keys are where they belong
   at the beginning of what is to be read, they are so everywhere behind it.
3. So the first records of each partition are looked at. If one of them is not where its key belongs, all partitions are
   read: slower, and still right.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from typing import Any, Final, Protocol

from streams.kafka.partitioner import partition_of

_SAMPLE: Final = 100
"""Records of each partition that are looked at."""
_SAMPLE_S: Final = 5.0


class NarrowReader(Protocol):
    """A reader of a topic; see :class:`streams.kafka.reading.TopicReader`."""

    @property
    def partitions(self) -> Collection[int]: ...

    def bounds(self) -> dict[int, tuple[int, int]]: ...

    def at_time(self, timestamp_ms: int) -> dict[int, int]: ...

    def start(self, offsets: Mapping[int, int]) -> None: ...

    def take(self, most: int, wait_s: float) -> list[Any]: ...

    def skip(self, partitions: Collection[int]) -> None: ...

    def ended(self) -> Collection[int]: ...

    def narrow(self, partitions: Collection[int]) -> None: ...


def narrow(reader: NarrowReader, keys: Collection[bytes] | None, since_ms: int | None) -> bool:
    """Let a reader read only the partitions that some keys are in, from a Unix time on; None: from the beginning.

    Return whether it does. ``keys`` None means that records of any key are to be read. Raises ReadError."""
    count = len(reader.partitions)
    if keys is None or count == 1:
        return False
    chosen = {partition_of(key, count) for key in keys}
    if len(chosen) == count or not _are_in_place(reader, count, since_ms):
        return False
    reader.narrow(chosen)
    return True


def _are_in_place(reader: NarrowReader, count: int, since_ms: int | None) -> bool:
    """Return whether the first records of each partition are where their keys belong."""
    bounds = reader.bounds()
    starts = {partition: first for partition, (first, _) in bounds.items()}
    if since_ms is not None:
        starts = reader.at_time(since_ms)
    left = {partition: _SAMPLE for partition, start in starts.items() if start < bounds[partition][1]}
    reader.start({partition: starts[partition] for partition in left})
    deadline = time.monotonic() + _SAMPLE_S
    while left:
        for record in reader.take(_SAMPLE, 0.1):
            if record.key and partition_of(record.key, count) != record.partition:
                return False
            if record.partition in left:
                left[record.partition] -= 1
        done = [at for at, more in left.items() if more <= 0 or at in reader.ended()]
        if done:
            # Else those with many records are read on and on before the others.
            reader.skip(done)
            left = {at: more for at, more in left.items() if at not in done}
        if time.monotonic() > deadline:
            return False  # it is not known, so all are read
    return True
