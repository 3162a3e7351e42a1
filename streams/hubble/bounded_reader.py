"""A reader of a topic for one client: it stops when the client has gone, and says when Kafka has.

Nothing waits in a buffer for a client that is slow: the topic itself is the buffer. Such a client reads later what it
has not read yet, and what Kafka's retention has removed meanwhile is counted and reported.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from typing import Final

from streams.kafka.ranges import Reader
from streams.kafka.records import Record

_ASK_S: Final = 5.0
"""How long Kafka may send nothing until it is asked whether it is there."""


class ClientGoneError(Exception):
    """The client reads no more, or the server stops."""


class BoundedReader:
    """Reads one topic, as long as somebody wants it."""

    def __init__(
        self, reader: Reader, is_active: Callable[[], bool], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._reader, self._is_active, self._clock = reader, is_active, clock
        self._heard_at = clock()
        self._next: dict[int, int] = {}
        self.removed = 0
        """Records that retention has removed since :meth:`start`, before they were read."""

    def bounds(self) -> dict[int, tuple[int, int]]:
        """Return the first offset of each partition, and the next one to be written. Raises ReadError."""
        return self._reader.bounds()

    def at_time(self, timestamp_ms: int) -> dict[int, int]:
        """Return the first offset of each partition at or after a time. Raises ReadError."""
        return self._reader.at_time(timestamp_ms)

    def start(self, offsets: Mapping[int, int]) -> None:
        """Begin to read."""
        self._next, self.removed, self._heard_at = dict(offsets), 0, self._clock()
        self._reader.start(offsets)

    def skip(self, partitions: Collection[int]) -> None:
        """Read nothing more of some partitions until the next :meth:`start`."""
        self._reader.skip(partitions)

    def ended(self) -> Collection[int]:
        """Return the partitions that were read to their end."""
        return self._reader.ended()

    def take(self, most: int, wait_s: float) -> list[Record]:
        """Return records. Raises ClientGoneError, and ReadError if Kafka cannot be reached."""
        if not self._is_active():
            raise ClientGoneError
        found = self._reader.take(most, wait_s)
        if found:
            self._heard_at = self._clock()
            self._count(found)
        elif self._clock() - self._heard_at > _ASK_S:
            # The client retries for ever by itself, and says nothing meanwhile.
            self._reader.bounds()
            self._heard_at = self._clock()
        return found

    def _count(self, found: list[Record]) -> None:
        gaps = []
        for record in found:
            expected = self._next.get(record.partition, record.offset)
            if record.offset > expected:
                gaps.append((record.partition, expected, record.offset))
            self._next[record.partition] = record.offset + 1
        # Offsets may be missing for another reason, such as the mark of a transaction.
        firsts = self._reader.bounds() if gaps else {}
        for partition, expected, offset in gaps:
            self.removed += max(0, min(firsts[partition][0], offset) - expected)
