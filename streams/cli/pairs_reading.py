"""Reads pairs for commands: finds their hours by time, puts names and counts together, and adds segments up."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Final

import msgspec

from enrich.wire.pair import Pair, PairKey
from enrich.wire.pair_records import (
    Counts,
    Names,
    PairRecordError,
    decode_counts,
    decode_names,
    is_counts,
    pairs_of,
)
from enrich.wire.topics import Topics
from streams.kafka.connection import Connection, NoTopicError
from streams.kafka.reading import TopicReader, read_committed

_ONLY_ON_REQUEST: Final = "Workers count pairs only with WEIR_PAIRS=1."
_HOUR_MS: Final = 3_600_000
_NAMES_MS: Final = 26 * _HOUR_MS
"""A segment's names are on the topic before its counts, by no more than the life of a segment, and may be written once
more as long after them."""


class PairsReading:
    """The pairs of some hours, to be iterated over once: hour by hour, each combination once in an hour."""

    def __init__(
        self, connection: Connection, topics: Topics, since_hour: int, until_hour: int, cluster: str = ""
    ) -> None:
        """``until_hour`` is not included. ``cluster``: the only one whose pairs are read; empty: all.

        Raises :class:`~streams.kafka.connection.ReadError`; iterating does, too."""
        self.unreadable = 0
        """Records that could not be decoded, and were skipped."""
        self.complete_since_hour = since_hour
        """The first hour from which on everything that was counted is here. Earlier hours may be missing, or be there
        in part: the topic does not keep them any more, or did not exist."""
        self._connection, self._topic, self._cluster = connection, topics.pairs.name, cluster
        self._since_hour, self._until_hour = since_hour, until_hour
        self._names: dict[tuple[str, str, int], Names] = {}
        self._counts: defaultdict[int, dict[tuple[str, str, int], Counts]] = defaultdict(dict)
        self._keys: dict[PairKey, PairKey] = {}
        """Each key once, so that equal keys of different hours are the same object."""
        try:
            reader = TopicReader(connection, self._topic)
        except NoTopicError as error:
            raise NoTopicError(f"{error} {_ONLY_ON_REQUEST}") from error
        try:
            self._bounds = reader.bounds()
            self._starts = reader.at_time(max(0, since_hour * _HOUR_MS - _NAMES_MS))
        finally:
            reader.close()

    def __iter__(self) -> Iterator[Pair]:
        self._read()
        for hour in sorted(self._counts):
            yield from self._pairs_of_hour(self._counts.pop(hour)).values()

    def _read(self) -> None:
        # Compaction keeps the last record of a key, which may have been written much later than the first one.
        end_ms = (self._until_hour * _HOUR_MS) + _NAMES_MS
        first_ms: int | None = None
        since_ms = max(1, self._since_hour * _HOUR_MS - _NAMES_MS)
        for record in read_committed(self._connection, self._topic, self._bounds, since_ms):
            first_ms = record.timestamp_ms if first_ms is None else first_ms
            if record.timestamp_ms > end_ms and len(self._bounds) == 1:
                break
            if record.value:
                self._take(record.key, record.value)
        begins_here = all(self._starts[partition] <= first for partition, (first, _) in self._bounds.items())
        if begins_here:
            # The hour in which the topic begins is not complete.
            begins = self._until_hour if first_ms is None else first_ms // _HOUR_MS + 1
            self.complete_since_hour = max(self._since_hour, min(begins, self._until_hour))

    def _take(self, key: bytes, value: bytes) -> None:
        try:
            if is_counts(key):
                counts = decode_counts(value)
                header = counts.header
                if self._since_hour <= header.hour < self._until_hour and self._is_own(header.cluster):
                    self._counts[header.hour][header.cluster, header.segment, header.chunk] = counts
            else:
                names = decode_names(value)
                if self._is_own(names.cluster):
                    self._names[names.cluster, names.segment, names.chunk] = names
        except PairRecordError:
            self.unreadable += 1

    def _is_own(self, cluster: str) -> bool:
        return not self._cluster or cluster == self._cluster

    def _pairs_of_hour(self, found: dict[tuple[str, str, int], Counts]) -> dict[tuple[str, PairKey], Pair]:
        """Put the chunks of an hour together with their names, and add up what several segments counted."""
        pairs: dict[tuple[str, PairKey], Pair] = {}
        for place, counts in found.items():
            names = self._names.get(place)
            named = 0
            for pair in pairs_of(names, counts) if names is not None else ():
                named += 1
                key = self._keys.setdefault(pair.key, pair.key)
                other = pairs.get((pair.cluster, key))
                pairs[pair.cluster, key] = (
                    msgspec.structs.replace(pair, key=key) if other is None else _sum(other, pair)
                )
            if named < counts.header.pairs:
                # Retention has removed the names.
                after = min(counts.header.hour + 1, self._until_hour)
                self.complete_since_hour = max(self.complete_since_hour, after)
        return pairs


def read_pairs(
    connection: Connection, topics: Topics, since_hour: int, until_hour: int, cluster: str = ""
) -> PairsReading:
    """Read the pairs of the hours from ``since_hour`` to before ``until_hour``, both in hours since the epoch.

    Iterate over the result; then its ``complete_since_hour`` says from when on the answer is complete. Counts that
    reach the topic more than a day after their hour are not found. Raises
    :class:`~streams.kafka.connection.ReadError`."""
    return PairsReading(connection, topics, since_hour, until_hour, cluster)


def not_counted(begins_ns: int, until_ns: int, *, found: bool) -> str:
    """Return why a window has no pairs, if none was ``found`` and counting had not begun before its end; else empty.

    ``begins_ns``: from when on the pairs are complete."""
    return "" if found or begins_ns < until_ns else f"no pairs were counted in this window. {_ONLY_ON_REQUEST}"


def _sum(one: Pair, other: Pair) -> Pair:
    examples = dict.fromkeys((*one.examples, *other.examples))
    return msgspec.structs.replace(
        one,
        verdicts=one.verdicts + other.verdicts,
        packets=one.packets + other.packets,
        first_ns=min(one.first_ns, other.first_ns),
        last_ns=max(one.last_ns, other.last_ns),
        examples=tuple(examples)[: max(len(one.examples), len(other.examples))],
    )
