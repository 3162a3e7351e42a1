"""Puts the records of pairs together, hour by hour in the order of time, in bounded memory.

THEORY OF OPERATION

The broker stamps each record with its own time, so the records of the topic come in this order. Counts of an hour are
written until 26 hours after its end at most (:mod:`streams.worker.pair_counter` misses verdicts that are later), and so
are the names of their combinations. An example: a record of 2026-11-28 14:00 is read. No more counts of the hour from
10:00 to 11:00 of the day before can follow, so its pairs are put together, given away, and forgotten.

So about 27 hours of counts are kept, and the names of three days, however long the window is: as they are on the topic,
compressed. Names are decoded when an hour needs them; those of some hundred thousand combinations stay decoded for the
next hour. What does not fit ends the reading with an error: an answer from a part would be a guess.
"""

from __future__ import annotations

import zlib
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

from enrich.history.counted_time import CountedTime
from enrich.history.moments import moment
from enrich.history.pair_sums import MAX_DECODED, DecodedNames, NamedCounts, Place, summed
from enrich.wire.pair import HOUR_NS, Pair
from enrich.wire.pair_coverage import decode_coverage
from enrich.wire.pair_place import RecordPlace, place_of
from enrich.wire.pair_records import PairRecordError, decode_counts

HOUR_MS: Final = 3_600_000
LATE_MS: Final = 26 * HOUR_MS
"""Counts and names are on the topic so long after the hour at most. A segment's names are there before its counts, by
no more than its life of a day."""
MAX_BYTES: Final = 1 << 30
"""Bytes of records that wait for their hour; compressed, as they are in memory."""
_RECORD_BYTES: Final = 400
"""What a record takes beside its bytes, about."""
_DECODED: Final = 5
"""How much more memory than bytes a decoded record of coverage takes, about."""
_LEVEL: Final = 1


class TooManyPairsError(RuntimeError):
    """The pairs of some hours do not fit into memory; the message says of which."""


class _Record(NamedTuple):
    """A record that waits for its hour."""

    packed: bytes
    written_ms: int


class PairHours:
    """Takes records in the order in which they were written, and gives pairs, hour by hour.

    A combination comes once in an hour, unless the hour has more than :data:`MAX_DECODED` combinations."""

    def __init__(
        self,
        since_hour: int,
        until_hour: int,
        cluster: str = "",
        max_bytes: int = MAX_BYTES,
        max_decoded: int = MAX_DECODED,
    ) -> None:
        """``until_hour`` is not included. ``cluster``: the only one whose pairs are given; empty: all. ``max_bytes``
        of records wait at most; the names of about ``max_decoded`` combinations are decoded at once."""
        self.unreadable = 0
        """Records that could not be decoded, and were skipped."""
        self.late = 0
        """Records of counts that came after their hour was given away, and were skipped."""
        self.nameless: set[int] = set()
        """Hours with counts whose names are not there: the topic has kept the one and not the other."""
        self.counted = CountedTime()
        """When pairs were counted: of every cluster."""
        self.bytes = 0
        """Bytes of records that wait."""
        self._since_hour, self._until_hour, self._cluster = since_hour, until_hour, cluster
        self._max_bytes, self._max_decoded = max_bytes, max_decoded
        self._next_hour = since_hour
        """The first hour that is not given away yet."""
        self._names: dict[Place, _Record] = {}
        """The one that was written first is the first."""
        self._counts: defaultdict[int, dict[Place, _Record]] = defaultdict(dict)
        self._names_cache = DecodedNames(max_decoded)
        self._coverage: dict[tuple[str, str], int] = {}
        """For each segment, how much memory its record of coverage takes."""

    def take(self, key: bytes, value: bytes, written_ms: int) -> Iterator[Pair]:
        """Take a record; yield the pairs of the hours that are complete. Raises :class:`TooManyPairsError`."""
        yield from self._before(int((written_ms - LATE_MS) // HOUR_MS))
        place = place_of(key)
        if place is None:
            self.unreadable += 1
        elif place.kind == "coverage":
            self._take_coverage(place, value)
        elif not self._cluster or place.cluster == self._cluster:
            self._keep(place, value, written_ms)

    def rest(self) -> Iterator[Pair]:
        """Yield the pairs of the remaining hours: no record follows."""
        yield from self._before(self._until_hour)

    def _take_coverage(self, place: RecordPlace, value: bytes) -> None:
        try:
            record = decode_coverage(value)
        except PairRecordError:
            self.unreadable += 1
            return
        if (record.cluster, record.segment) != (place.cluster, place.segment):
            self.unreadable += 1
        else:
            self.counted.take(record)
            size, key = _DECODED * len(value) + _RECORD_BYTES, (record.cluster, record.segment)
            self._add(size - self._coverage.get(key, 0))
            self._coverage[key] = size

    def _keep(self, place: RecordPlace, value: bytes, written_ms: int) -> None:
        chunk = place.cluster, place.segment, place.chunk
        if place.kind == "names":
            self._forget(self._names, chunk)
            self._names_cache.forget(chunk)
            into = self._names
        elif not self._since_hour <= place.hour < self._until_hour:
            return
        elif place.hour < self._next_hour:
            self.late += 1
            return
        else:
            into = self._counts[place.hour]
            self._forget(into, chunk)
        record = into[chunk] = _Record(zlib.compress(value, _LEVEL), written_ms)
        self._add(len(record.packed) + _RECORD_BYTES)

    def _add(self, size: int) -> None:
        self.bytes += size
        if self.bytes > self._max_bytes:
            raise TooManyPairsError(
                f"the pairs of the day from {moment(self._next_hour * HOUR_NS)} on take more than "
                f"{self._max_bytes >> 20} MiB of memory"
            )

    def _forget(self, records: dict[Place, _Record], place: Place) -> None:
        record = records.pop(place, None)
        if record is not None:
            self.bytes -= len(record.packed) + _RECORD_BYTES

    # --- hours

    def _before(self, hour: int) -> Iterator[Pair]:
        """Yield the pairs of the hours before one, and forget them."""
        while self._next_hour < min(hour, self._until_hour):
            self._next_hour += 1
            found = self._counts.pop(self._next_hour - 1, {})
            yield from self._pairs(self._next_hour - 1, found)
            for place in list(found):
                self._forget(found, place)
            self._forget_names(self._next_hour * HOUR_MS - LATE_MS)

    def _forget_names(self, before_ms: int) -> None:
        """Forget the names that no later hour can need."""
        old = []
        for place, record in self._names.items():
            if record.written_ms >= before_ms:
                break
            old.append(place)
        for place in old:
            self._forget(self._names, place)
            self._names_cache.forget(place)

    def _pairs(self, hour: int, found: Mapping[Place, _Record]) -> Iterator[Pair]:
        parts: defaultdict[str, list[NamedCounts]] = defaultdict(list)
        size = 0
        for place, record in found.items():
            one = self._named_counts(hour, place, record)
            if one is None:
                continue
            parts[place[0]].append(one)
            size += len(one[1].numbers)
            if size > self._max_decoded:
                yield from summed(hour, parts)
                parts.clear()
                size = 0
                self._names_cache.make_room()
        yield from summed(hour, parts)
        self._names_cache.make_room()

    def _named_counts(self, hour: int, place: Place, record: _Record) -> NamedCounts | None:
        """Return the counts of a chunk and its names; None if one of them is not there, or cannot be read."""
        try:
            counts = decode_counts(zlib.decompress(record.packed))
        except PairRecordError:
            self.unreadable += 1
            return None
        header = counts.header
        if (header.cluster, header.segment, header.chunk, header.hour) != (*place, hour):
            self.unreadable += 1  # the key is another one's
            return None
        names = self._names.get(place)
        try:
            chunk = None if names is None else self._names_cache.of(place, names.packed)
        except PairRecordError:
            self.unreadable += 1
            chunk = None
        if chunk is None or (header.pairs and int(counts.columns["place"][-1]) >= len(chunk.numbers)):
            self.nameless.add(hour)
        return None if chunk is None else (counts, chunk)
