"""A topic of one partition in memory."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from streams.kafka.records import Record


class FilledTopic:
    """A reader of records that are there, and that a test may append more to."""

    def __init__(self, records: Iterable[tuple[int, bytes]] = ()) -> None:
        """``records``: Kafka's time in milliseconds, and the value."""
        self.records: list[Record] = []
        self._next = 0
        for at_ms, value in records:
            self.append(at_ms, value)

    def append(self, at_ms: int, value: bytes) -> None:
        """Write a record."""
        self.records.append(Record(0, len(self.records), b"", value, at_ms))

    def bounds(self) -> dict[int, tuple[int, int]]:
        return {0: (0, len(self.records))}

    def at_time(self, timestamp_ms: int) -> dict[int, int]:
        later = (one.offset for one in self.records if one.timestamp_ms >= timestamp_ms)
        return {0: next(later, len(self.records))}

    def start(self, offsets: Mapping[int, int]) -> None:
        self._next = offsets.get(0, len(self.records))

    def take(self, most: int, wait_s: float) -> list[Record]:
        found = self.records[self._next : self._next + most]
        self._next += len(found)
        return found

    def skip(self, partitions: Collection[int]) -> None:
        """Nothing to do: there is one partition."""

    def ended(self) -> frozenset[int]:
        return frozenset({0} if self._next == len(self.records) else ())

    def close(self) -> None:
        """Nothing to do."""
