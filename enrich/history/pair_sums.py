"""The names of pairs that are decoded, each combination once, and sums of counts by these names."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, NamedTuple

import numpy as np

from enrich.wire.bounds import MAX_COUNT
from enrich.wire.pair import HOUR_NS, MAX_EXAMPLES, Pair, PairEnd, PairKey, Rules
from enrich.wire.pair_records import SECOND_NS, Counts, PairRecordError, decode_names

MAX_DECODED: Final = 400_000
"""Combinations whose names stay decoded, about 500 bytes each."""

Place = tuple[str, str, int]
"""Cluster, segment and chunk."""


class Chunk(NamedTuple):
    """The combinations of a chunk by their place."""

    numbers: Any
    """Equal combinations have equal numbers."""
    keys: Any
    examples: Any
    """The ids of records of each combination, in one text with spaces."""


NamedCounts = tuple[Counts, Chunk]
"""What was counted of a chunk in an hour, and its names."""


class DecodedNames:
    """Names that were decoded, and the combinations in them, each once."""

    def __init__(self, max_size: int) -> None:
        """``max_size``: combinations that are kept for the next hour."""
        self._max_size = max_size
        self._chunks: dict[Place, Chunk] = {}
        self._size = 0
        self._begin()

    def _begin(self) -> None:
        self._chunks.clear()
        self._size = 0
        self._keys: dict[PairKey, tuple[int, PairKey]] = {}
        self._ends: dict[PairEnd, PairEnd] = {}
        self._rules: dict[Rules, Rules] = {}

    def of(self, place: Place, packed: bytes) -> Chunk:
        """Return the names of a chunk. Raises :class:`PairRecordError`."""
        found = self._chunks.get(place)
        if found is None:
            found = self._chunks[place] = self._decoded(place, packed)
            self._size += len(found.numbers)
        return found

    def forget(self, place: Place) -> None:
        """Forget the names of a chunk. Its combinations stay until there must be room."""
        self._chunks.pop(place, None)

    def make_room(self) -> None:
        """Forget all, if it is too much. Combinations get other numbers then, so no hour may be half summed."""
        if self._size > self._max_size:
            self._begin()

    def _decoded(self, place: Place, packed: bytes) -> Chunk:
        names = decode_names(zlib.decompress(packed))
        if (names.cluster, names.segment, names.chunk) != place:
            raise PairRecordError("the key is another one's")
        found = [self._key(key) for key, _ in names.pairs]
        return Chunk(
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


def summed(hour: int, parts: Mapping[str, list[NamedCounts]]) -> Iterator[Pair]:
    """Yield the pairs of an hour. ``parts`` are by cluster; what several segments counted is added up."""
    for cluster, own in parts.items():
        yield from _of_cluster(cluster, hour, own)


def _of_cluster(cluster: str, hour: int, parts: list[NamedCounts]) -> Iterator[Pair]:
    """Add up what several segments counted of the same combination."""
    named = [(one, chunk, one.columns["place"] < len(chunk.numbers)) for one, chunk in parts]
    places = [(chunk, one.columns["place"][known]) for one, chunk, known in named]

    # So that sums of counts that no worker writes stay in 64 bits.
    most = np.uint64(MAX_COUNT // len(parts))

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
