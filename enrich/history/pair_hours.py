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
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, NamedTuple

import numpy as np

from enrich.history.moments import moment
from enrich.wire.bounds import MAX_COUNT
from enrich.wire.pair import HOUR_NS, MAX_EXAMPLES, Pair, PairEnd, PairKey, Rules
from enrich.wire.pair_place import RecordPlace, place_of
from enrich.wire.pair_records import SECOND_NS, Counts, PairRecordError, decode_counts, decode_names

HOUR_MS: Final = 3_600_000
LATE_MS: Final = 26 * HOUR_MS
"""Counts and names are on the topic so long after the hour at most. A segment's names are there before its counts, by
no more than its life of a day."""
MAX_BYTES: Final = 1 << 30
"""Bytes of records that wait for their hour; compressed, as they are in memory."""
MAX_DECODED: Final = 400_000
"""Combinations whose names stay decoded, about 500 bytes each."""
_RECORD_BYTES: Final = 400
"""What a record takes beside its bytes, about."""
_LEVEL: Final = 1


class TooManyPairsError(RuntimeError):
    """The pairs of some hours do not fit into memory; the message says of which."""


class _Record(NamedTuple):
    """A record that waits for its hour."""

    packed: bytes
    written_ms: int


class _Chunk(NamedTuple):
    """The combinations of a chunk by their place."""

    numbers: Any
    """Equal combinations have equal numbers."""
    keys: Any
    examples: Any
    """The ids of records of each combination, in one text with spaces."""


_Place = tuple[str, str, int]
_Rows = tuple[Counts, _Chunk]


class PairHours:
    """Takes records in the order in which they were written, and gives pairs, hour by hour.

    A combination comes once in an hour, unless the hour has more than :data:`MAX_DECODED` combinations."""

    def __init__(self, since_hour: int, until_hour: int, cluster: str = "", max_bytes: int = MAX_BYTES) -> None:
        """``until_hour`` is not included. ``cluster``: the only one whose pairs are given; empty: all."""
        self.unreadable = 0
        """Records that could not be decoded, and were skipped."""
        self.late = 0
        """Records of counts that came after their hour was given away, and were skipped."""
        self.nameless: set[int] = set()
        """Hours with counts whose names are not there: the topic has kept the one and not the other."""
        self.bytes = 0
        """Bytes of records that wait."""
        self._since_hour, self._until_hour, self._cluster = since_hour, until_hour, cluster
        self._max_bytes = max_bytes
        self._next_hour = since_hour
        """The first hour that is not given away yet."""
        self._names: dict[_Place, _Record] = {}
        """The one that was written first is the first."""
        self._counts: defaultdict[int, dict[_Place, _Record]] = defaultdict(dict)
        self._names_cache = _DecodedNames()

    def take(self, key: bytes, value: bytes, written_ms: int) -> Iterator[Pair]:
        """Take a record; yield the pairs of the hours that are complete. Raises :class:`TooManyPairsError`."""
        yield from self._before(int((written_ms - LATE_MS) // HOUR_MS))
        place = place_of(key)
        if place is None:
            self.unreadable += 1
        elif not self._cluster or place.cluster == self._cluster:
            self._keep(place, value, written_ms)

    def rest(self) -> Iterator[Pair]:
        """Yield the pairs of the remaining hours: no record follows."""
        yield from self._before(self._until_hour)

    def _keep(self, place: RecordPlace, value: bytes, written_ms: int) -> None:
        chunk = place.cluster, place.segment, place.chunk
        if place.kind == "names":
            self._forget(self._names, chunk)
            self._names_cache.forget(chunk)
            into = self._names
        elif place.kind != "counts" or not self._since_hour <= place.hour < self._until_hour:
            return
        elif place.hour < self._next_hour:
            self.late += 1
            return
        else:
            into = self._counts[place.hour]
            self._forget(into, chunk)
        record = into[chunk] = _Record(zlib.compress(value, _LEVEL), written_ms)
        self.bytes += len(record.packed) + _RECORD_BYTES
        if self.bytes > self._max_bytes:
            raise TooManyPairsError(
                f"the pairs of the day from {moment(self._next_hour * HOUR_NS)} on take more than "
                f"{self._max_bytes >> 20} MiB of memory"
            )

    def _forget(self, records: dict[_Place, _Record], place: _Place) -> None:
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

    def _pairs(self, hour: int, found: Mapping[_Place, _Record]) -> Iterator[Pair]:
        rows: defaultdict[str, list[_Rows]] = defaultdict(list)
        size = 0
        for place, record in found.items():
            one = self._rows(hour, place, record)
            if one is None:
                continue
            rows[place[0]].append(one)
            size += len(one[1].numbers)
            if size > MAX_DECODED:
                yield from _all_summed(hour, rows)
                rows.clear()
                size = 0
                self._names_cache.make_room()
        yield from _all_summed(hour, rows)
        self._names_cache.make_room()

    def _rows(self, hour: int, place: _Place, record: _Record) -> _Rows | None:
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


class _DecodedNames:
    """Names that were decoded, and the combinations in them, each once."""

    def __init__(self) -> None:
        self._chunks: dict[_Place, _Chunk] = {}
        self._size = 0
        self._begin()

    def _begin(self) -> None:
        self._chunks.clear()
        self._size = 0
        self._keys: dict[PairKey, tuple[int, PairKey]] = {}
        self._ends: dict[PairEnd, PairEnd] = {}
        self._rules: dict[Rules, Rules] = {}

    def of(self, place: _Place, packed: bytes) -> _Chunk:
        """Return the names of a chunk. Raises :class:`PairRecordError`."""
        found = self._chunks.get(place)
        if found is None:
            found = self._chunks[place] = self._decoded(place, packed)
            self._size += len(found.numbers)
        return found

    def forget(self, place: _Place) -> None:
        """Forget the names of a chunk. Its combinations stay until there must be room."""
        self._chunks.pop(place, None)

    def make_room(self) -> None:
        """Forget all, if it is too much. Combinations get other numbers then, so no hour may be half summed."""
        if self._size > MAX_DECODED:
            self._begin()

    def _decoded(self, place: _Place, packed: bytes) -> _Chunk:
        names = decode_names(zlib.decompress(packed))
        if (names.cluster, names.segment, names.chunk) != place:
            raise PairRecordError("the key is another one's")
        found = [self._key(key) for key, _ in names.pairs]
        return _Chunk(
            np.array([number for number, _ in found], np.int64),
            _objects([key for _, key in found]),
            _objects([" ".join(examples) for _, examples in names.pairs]),
        )

    def _key(self, key: PairKey) -> tuple[int, PairKey]:
        known = self._keys.get(key)
        if known is None:
            subject, peer = self._once(self._ends, key.subject), self._once(self._ends, key.peer)
            own = PairKey(
                subject=subject, peer=peer, direction=key.direction, protocol=key.protocol, port=key.port,
                verdict=key.verdict, reason=key.reason, policies=self._once(self._rules, key.policies),
                service=key.service,
            )  # fmt: skip
            known = self._keys[own] = (len(self._keys), own)
        return known

    @staticmethod
    def _once(known: dict[Any, Any], value: Any) -> Any:
        return known.setdefault(value, value)


def _objects(values: list[Any]) -> Any:
    found = np.empty(len(values), object)
    found[:] = values
    return found


def _all_summed(hour: int, rows: Mapping[str, list[_Rows]]) -> Iterator[Pair]:
    for cluster, own in rows.items():
        yield from _summed(cluster, hour, own)


def _summed(cluster: str, hour: int, rows: list[_Rows]) -> Iterator[Pair]:
    """Add up what several segments counted of the same combination."""
    named = [(one, chunk, one.columns["place"] < len(chunk.numbers)) for one, chunk in rows]
    places = [(chunk, one.columns["place"][known]) for one, chunk, known in named]

    # So that sums of counts that no worker writes stay in 64 bits.
    most = np.uint64(MAX_COUNT // len(rows))

    def column(name: str) -> Any:
        found = np.concatenate([one.columns[name][known] for one, _, known in named])
        return np.minimum(found.astype(np.uint64), most).astype(np.int64)

    numbers = np.concatenate([chunk.numbers[at] for chunk, at in places])
    if not len(numbers):
        return
    order = np.argsort(numbers, kind="stable")
    firsts = np.flatnonzero(np.diff(numbers[order], prepend=-1))
    sizes = np.diff(firsts, append=len(order)).tolist()
    keys = np.concatenate([chunk.keys[at] for chunk, at in places])[order[firsts]].tolist()
    examples = np.concatenate([chunk.examples[at] for chunk, at in places])[order]
    summed: list[Callable[..., Any]] = [np.add.reduceat, np.add.reduceat, np.minimum.reduceat, np.maximum.reduceat]
    columns = [
        add(column(name)[order], firsts).tolist()
        for add, name in zip(summed, ("verdicts", "packets", "first", "last"), strict=True)
    ]
    begin = hour * HOUR_NS
    for key, at, size, verdicts, packets, first, last in zip(keys, firsts.tolist(), sizes, *columns, strict=True):
        yield Pair(
            cluster=cluster, hour=hour, key=key, verdicts=verdicts, packets=packets,
            first_ns=begin + first * SECOND_NS, last_ns=begin + last * SECOND_NS,
            examples=_examples(examples[at : at + size]),
        )  # fmt: skip


def _examples(texts: Any) -> tuple[str, ...]:
    if len(texts) == 1:
        return tuple(texts[0].split())
    return tuple(dict.fromkeys(" ".join(texts).split()))[:MAX_EXAMPLES]
