"""Reads pairs for commands: hour by hour, in the order in which the topic has them, and says what is not there."""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from enrich.history.counted_time import CountedTime
from enrich.history.pair_hours import HOUR_MS, LATE_MS, MAX_BYTES, PairHours
from enrich.history.pair_sums import MAX_DECODED
from enrich.wire.pair import Pair
from enrich.wire.topics import Topics
from streams.kafka.connection import Connection, NoTopicError
from streams.kafka.reading import TopicReader, read_committed
from streams.kafka.records import Record

_ONLY_ON_REQUEST: Final = "Workers count pairs only with WEIR_PAIRS=1."


class Limits(NamedTuple):
    """What a reading may take."""

    check: Callable[[], None] = lambda: None
    """Is called for each record; what it raises ends the reading."""
    max_bytes: int = MAX_BYTES
    max_decoded: int = MAX_DECODED


NO_LIMITS: Final = Limits()
"""Those of a command, which a person may end."""


class PairsReading:
    """The pairs of some hours, to be iterated over once: hour by hour, as they are read from Kafka.

    How much memory it takes does not depend on the length of the window (:mod:`enrich.history.pair_hours`)."""

    def __init__(
        self,
        connection: Connection,
        topics: Topics,
        since_hour: int,
        until_hour: int,
        cluster: str = "",
        limits: Limits = NO_LIMITS,
    ) -> None:
        """``until_hour`` is not included. ``cluster``: the only one whose pairs are read; empty: all.

        Raises :class:`~streams.kafka.connection.ReadError`; iterating does, too, and
        :class:`~enrich.history.pair_hours.TooManyPairsError`."""
        self.complete_since_hour = since_hour
        """The first hour from which on everything that was counted is here. Earlier hours may be missing, or be there
        in part: the topic does not keep them any more, or did not exist."""
        self._connection, self._topic = connection, topics.pairs.name
        self._since_hour, self._until_hour = since_hour, until_hour
        self._since_ms = max(1, since_hour * HOUR_MS - LATE_MS)
        # An end in a distant future has no more hours than one tomorrow.
        last_hour = min(until_hour, int(time.time() * 1000 + LATE_MS) // HOUR_MS)
        self._hours = PairHours(since_hour, last_hour, cluster, limits.max_bytes, limits.max_decoded)
        self._check = limits.check
        self._first_ms: int | None = None
        try:
            reader = TopicReader(connection, self._topic)
        except NoTopicError as error:
            raise NoTopicError(f"{error} {_ONLY_ON_REQUEST}") from error
        try:
            self._bounds = reader.bounds()
            self._starts = reader.at_time(self._since_ms)
        finally:
            reader.close()

    @property
    def unreadable(self) -> int:
        """Records, or batches of them, that could not be read, and were skipped."""
        return self._hours.unreadable

    @property
    def late(self) -> int:
        """Records of counts that were written more than a day after their hour, and were skipped."""
        return self._hours.late

    @property
    def has_losses(self) -> bool:
        """Whether something that was counted is not here. Ask after all have been read.

        Verdicts that came too late to be counted do not belong to this: whoever reads cannot know of what time they
        are, because a clock that is wrong makes them, too."""
        return self.unreadable > 0 or self.late > 0

    @property
    def counted(self) -> CountedTime:
        """When pairs were counted, after all have been read."""
        return self._hours.counted

    def __iter__(self) -> Iterator[Pair]:
        # Compaction keeps the last record of a key, which may have been written much later than the first one.
        end_ms = self._until_hour * HOUR_MS + LATE_MS
        for record in self._records():
            self._check()
            if record.unread:
                self._hours.unreadable += 1
                continue
            if self._first_ms is None:
                self._first_ms = record.timestamp_ms
            if record.timestamp_ms > end_ms:
                break
            if record.value:
                yield from self._hours.take(record.key, record.value, record.timestamp_ms)
        yield from self._hours.rest()
        self._note_begin()

    def _records(self) -> Iterator[Record]:
        """Yield the records in the order of time. An operator may have given the topic more than one partition."""
        found = [
            read_committed(self._connection, self._topic, [partition], self._since_ms) for partition in self._bounds
        ]
        return found[0] if len(found) == 1 else heapq.merge(*found, key=lambda record: record.timestamp_ms)

    def _note_begin(self) -> None:
        begins = self._since_hour
        if all(self._starts[partition] <= first for partition, (first, _) in self._bounds.items()):
            # The hour in which the topic begins is not complete.
            begins = self._until_hour if self._first_ms is None else self._first_ms // HOUR_MS + 1
        # Retention removes names before the counts that need them.
        nameless = max(self._hours.nameless, default=begins - 1) + 1
        self.complete_since_hour = max(self._since_hour, min(max(begins, nameless), self._until_hour))


def read_pairs(
    connection: Connection, topics: Topics, since_hour: int, until_hour: int, cluster: str = ""
) -> PairsReading:
    """Read the pairs of the hours from ``since_hour`` to before ``until_hour``, both in hours since the epoch.

    Iterate over the result; then its ``complete_since_hour`` says from when on the answer is complete, and ``late`` how
    many records of counts reached the topic more than a day after their hour: these are left out. Raises
    :class:`~streams.kafka.connection.ReadError`."""
    return PairsReading(connection, topics, since_hour, until_hour, cluster)


def not_counted(begins_ns: int, until_ns: int, *, found: bool) -> str:
    """Return why a window has no pairs, if none was ``found`` and counting had not begun before its end; else empty.

    ``begins_ns``: from when on the pairs are complete."""
    return "" if found or begins_ns < until_ns else f"no pairs were counted in this window. {_ONLY_ON_REQUEST}"
