"""A segment: combinations by number, and what was counted of them in each hour, as arrays."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import numpy as np

from enrich.wire.pair_place import counts_key, names_key
from enrich.wire.pair_records import CHUNK, MAX_CHUNKS, MAX_SECOND, CountsHeader, Names, encode_counts, encode_names
from streams.worker.pair_keys import Combinations
from streams.worker.pair_limits import HourLimits

SECONDS_PER_HOUR: Final = 3_600
COMBINATION_BYTES: Final = 800
"""What a combination takes, about: its key, its examples, its places in the dictionaries. Its ends are classes."""
_HOUR_BYTES: Final = 32

Counted = np.ndarray[Any, np.dtype[np.uint32]]
"""What single verdicts add, a column for each: the combination's number, packets, first and last second."""


class _Hour:
    """The counts of one hour, by the number of the combination."""

    def __init__(self) -> None:
        self.verdicts, self.packets = np.zeros(0, np.int64), np.zeros(0, np.int64)
        self.first, self.last = np.zeros(0, np.int64), np.zeros(0, np.int64)
        self.changed_chunks: set[int] = set()

    def grow(self, size: int) -> None:
        """Make room for so many combinations, in whole chunks."""
        if size > len(self.verdicts):
            more = max(-(-size // CHUNK) * CHUNK, 2 * len(self.verdicts)) - len(self.verdicts)
            self.verdicts, self.packets, self.last = (
                np.concatenate([column, np.zeros(more, np.int64)])
                for column in (self.verdicts, self.packets, self.last)
            )
            self.first = np.concatenate([self.first, np.full(more, MAX_SECOND)])


class Changes(NamedTuple):
    """The chunks that a write has taken, so that a failed one can give them back."""

    names: frozenset[int]
    hours: dict[int, frozenset[int]]


class Segment:
    """What one worker counts of one cluster, from one start to the next."""

    def __init__(self, cluster: str, limits: HourLimits, began: float, limit: int = 200_000) -> None:
        self.cluster, self.began = cluster, began
        self.id = secrets.token_hex(8)
        self.combinations = Combinations(limits, limit)
        self._hours: dict[int, _Hour] = {}

    @property
    def verdicts(self) -> int:
        """How many verdicts were counted."""
        return sum(int(hour.verdicts.sum()) for hour in self._hours.values())

    @property
    def memory(self) -> int:
        """About how many bytes of memory it takes."""
        hours = sum(len(hour.verdicts) for hour in list(self._hours.values()))  # on any thread
        made = self.combinations
        return len(made.keys) * COMBINATION_BYTES + made.class_bytes + hours * _HOUR_BYTES

    @property
    def is_full(self) -> bool:
        """Whether readers would refuse more of it."""
        return len(self.combinations.keys) >= (MAX_CHUNKS // 2) * CHUNK

    def add(self, counted: Counted) -> None:
        """Add what was counted."""
        first, last = (int(one) // SECONDS_PER_HOUR for one in (counted[2].min(), counted[2].max()))
        if first == last:
            self._add_to_hour(first, counted)
            return
        hours = counted[2] // SECONDS_PER_HOUR
        for hour in np.unique(hours).tolist():
            self._add_to_hour(hour, counted[:, hours == hour])

    def take_changes(self) -> tuple[Changes, list[tuple[bytes, bytes]]]:
        """Return what has changed since the last call, also as records: keys and values."""
        names, self.combinations.changed_chunks = frozenset(self.combinations.changed_chunks), set()
        changes = Changes(names, {number: frozenset(hour.changed_chunks) for number, hour in self._hours.items()
                                  if hour.changed_chunks})  # fmt: skip
        for number in changes.hours:
            self._hours[number].changed_chunks = set()
        return changes, list(self._records(changes))

    def give_back(self, changes: Changes) -> None:
        """Count the changes as not written."""
        self.combinations.changed_chunks |= changes.names
        for number, chunks in changes.hours.items():
            self._hours[number].changed_chunks |= chunks

    def _add_to_hour(self, number: int, counted: Counted) -> None:
        hour = self._hours.setdefault(number, _Hour())
        places = counted[0].astype(np.int64)
        hour.grow(int(places.max()) + 1)
        size, begin = len(hour.verdicts), number * SECONDS_PER_HOUR
        verdicts = np.bincount(places, minlength=size)
        hour.verdicts += verdicts
        if counted[1].min() == counted[1].max() == 1:
            hour.packets += verdicts
        else:
            # numpy adds these as floats. That is exact below 2**53: a worker never has 2**21 verdicts at once.
            hour.packets += np.bincount(places, counted[1], size).astype(np.int64)
        # Most verdicts are not the first ones of their combination, and of a second that was there before.
        seconds = counted[2].astype(np.int64) - begin
        earlier = seconds < hour.first[places]
        np.minimum.at(hour.first, places[earlier], seconds[earlier])
        seconds = np.minimum(counted[3].astype(np.int64) - begin, MAX_SECOND)
        later = seconds > hour.last[places]
        np.maximum.at(hour.last, places[later], seconds[later])
        hour.changed_chunks.update(np.flatnonzero(verdicts.reshape(-1, CHUNK).any(1)).tolist())

    def _records(self, changes: Changes) -> Iterator[tuple[bytes, bytes]]:
        keys, examples = self.combinations.keys, self.combinations.examples
        for chunk in sorted(changes.names):
            part = slice(chunk * CHUNK, (chunk + 1) * CHUNK)
            pairs = list(zip(keys[part], examples[part], strict=True))
            names = Names(cluster=self.cluster, segment=self.id, chunk=chunk, pairs=pairs)
            yield names_key(self.cluster, self.id, chunk), encode_names(names)
        for number, chunks in changes.hours.items():
            for chunk in sorted(chunks):
                yield counts_key(self.cluster, self.id, number, chunk), self._encoded(number, chunk)

    def _encoded(self, number: int, chunk: int) -> bytes:
        hour, part = self._hours[number], slice(chunk * CHUNK, (chunk + 1) * CHUNK)
        places = np.flatnonzero(hour.verdicts[part])
        header = CountsHeader(cluster=self.cluster, segment=self.id, chunk=chunk, hour=number, pairs=len(places))
        columns = {
            "place": places,
            **{name: getattr(hour, name)[part][places] for name in ("verdicts", "packets", "first", "last")},
        }
        return encode_counts(header, columns)
