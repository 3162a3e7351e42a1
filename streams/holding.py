"""Rows that wait a moment, because the cluster's index may not have heard yet of the pods that they are about.

A row waits until the index has been told everything up to the row's time, and while one of its ends is unsettled: a pod
that is not known yet, an address that is likely a pod's, one whose owner is not certain. Not longer than ``hold`` from
its own time, nor from when it came; and not when too much waits already, then the oldest go first. A row that waits
holds back later rows of its own pod, no others. Values only: who sends what is let go is :mod:`streams.pipeline`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, Protocol

import numpy as np

from enrich.enricher import Looked
from enrich.records import Batch
from streams.delivery import Tracked

GUARD_NS: Final = 100_000_000
"""What a kubelet and the API server take to tell what a node's kernel knows already."""

Mask = np.ndarray[Any, np.dtype[np.bool_]]
Times = np.ndarray[Any, np.dtype[np.int64]]


class Looker(Protocol):
    """See :class:`enrich.enricher.Enricher`."""

    @property
    def generation(self) -> int: ...

    def look(self, batch: Batch, until_ns: int | None = None) -> Looked: ...


@dataclass(slots=True, eq=False)
class _Part:
    """Rows of a batch that wait, and what was looked up of them in a state of the index."""

    tracked: Tracked
    batch: Batch
    came_ns: int
    generation: int
    unsettled: Mask


class Released(NamedTuple):
    """Rows that need not wait any longer."""

    tracked: Tracked
    batch: Batch
    late: int
    """How many of them go because they have waited for as long as they may."""
    full: bool
    """They go because too much waits."""


class Holding:
    """What waits, in the order in which it came."""

    def __init__(
        self,
        looker: Looker,
        read_until_ns: Callable[[], int],
        hold_ns: int,
        max_bytes: int,
        now_ns: Callable[[], int],
    ) -> None:
        self.bytes = 0
        self._looker, self._read_until_ns = looker, read_until_ns
        self._hold_ns, self._max_bytes, self._now_ns = hold_ns, max_bytes, now_ns
        self._parts: list[_Part] = []
        self._open: set[Tracked] = set()

    def __len__(self) -> int:
        return len(self._parts)

    def until_ns(self) -> int:
        """Up to which row's time the index knows everything."""
        return self._read_until_ns() - GUARD_NS

    def holds(self, tracked: Tracked) -> bool:
        """Whether rows of this input wait, or are on their way out."""
        return tracked in self._open

    def forget(self, partitions: Iterable[int]) -> None:
        """Another worker has these now."""
        gone = set(partitions)
        for part in [part for part in self._parts if part.tracked.partition in gone]:
            self.abandon(part.tracked)

    def abandon(self, tracked: Tracked) -> None:
        """Its rows need not go out any more."""
        for part in [part for part in self._parts if part.tracked is tracked]:
            self._shrink(part, None)
        self._open.discard(tracked)

    def split(self, tracked: Tracked, batch: Batch, looked: Looked) -> Batch | None:
        """Keep the rows that are to wait; the others, or None where none has to wait."""
        if looked.unsettled is None and not self._parts and _last_ns(batch) <= self.until_ns():
            return None  # the usual case by far, and it is once a batch
        now = self._now_ns()
        unsettled = np.zeros(len(batch.rows), bool) if looked.unsettled is None else np.asarray(looked.unsettled)
        before = {endpoint for part in self._parts if _same_ring(part, batch) for endpoint in _endpoints(part.batch)}
        waits = self._waits(batch, unsettled, now, now, self.until_ns(), before)
        if waits is None:
            return None
        part = _Part(tracked, batch.pick(waits), now, self._looker.generation, unsettled[waits])
        self._parts.append(part)
        self._open.add(tracked)
        self.bytes += part.batch.rows.nbytes
        return batch.pick(~waits)

    def release(self) -> Iterator[Released]:
        """What need not wait any longer, a pod's rows in their order; :meth:`done` is to be told when it is out."""
        until, now = self.until_ns(), self._now_ns()
        held: dict[str, set[int]] = {}
        for part in tuple(self._parts):
            if part not in self._parts:
                continue  # forgotten while others were sent
            before = held.setdefault(part.batch.header.ring, set())
            full = self.bytes > self._max_bytes
            waits = None if full else self._still_waits(part, now, until, before)
            late = 0 if waits is not None and waits.all() else self._late(part, until, waits)
            going = part.batch if waits is None else part.batch.pick(~waits)
            self._shrink(part, waits)
            before |= _endpoints(part.batch) if waits is not None else set()
            if len(going.rows):
                yield Released(part.tracked, going, late, full)

    def done(self, tracked: Tracked) -> bool:
        """Rows that were let go are out; whether they were the last of their input."""
        if any(part.tracked is tracked for part in self._parts):
            return False
        was_open = tracked in self._open
        self._open.discard(tracked)
        return was_open

    def _still_waits(self, part: _Part, now: int, until: int, before: set[int]) -> Mask | None:
        if part.generation != self._looker.generation:
            part.generation = self._looker.generation
            looked = self._looker.look(part.batch).unsettled
            part.unsettled = np.zeros(len(part.batch.rows), bool) if looked is None else np.asarray(looked)
        return self._waits(part.batch, part.unsettled, part.came_ns, now, until, before)

    def _waits(self, batch: Batch, unsettled: Mask, came: int, now: int, until: int, before: set[int]) -> Mask | None:
        """Which rows wait; None: none."""
        wall = wall_times(batch)
        # A clock that is ahead does not make its rows wait for longer.
        waits: Mask = ((wall > until) | unsettled) & (np.minimum(wall, came) + self._hold_ns > now)
        endpoints = batch.rows["endpoint"]
        if before:
            waits |= np.isin(endpoints, list(before))
        if not waits.any():
            return None
        if not waits.all():
            for endpoint in np.unique(endpoints[waits]).tolist():
                own = endpoints == endpoint
                own[: int(np.argmax(own & waits))] = False
                waits |= own
        return waits

    @staticmethod
    def _late(part: _Part, until: int, waits: Mask | None) -> int:
        late = part.unsettled | (wall_times(part.batch) > until)
        return int(np.count_nonzero(late if waits is None else late & ~waits))

    def _shrink(self, part: _Part, waits: Mask | None) -> None:
        self.bytes -= part.batch.rows.nbytes
        if waits is None:
            self._parts.remove(part)
            return
        part.batch, part.unsettled = part.batch.pick(waits), part.unsettled[waits]
        self.bytes += part.batch.rows.nbytes


def wall_times(batch: Batch) -> Times:
    """The wall clock's nanoseconds of each row."""
    times: Times = batch.rows["time_ns"].astype(np.int64) + batch.header.clock
    return times


def _last_ns(batch: Batch) -> int:
    """The latest of :func:`wall_times`."""
    return int(batch.rows["time_ns"].max(initial=0)) + batch.header.clock


def _same_ring(part: _Part, batch: Batch) -> bool:
    return part.batch.header.ring == batch.header.ring


def _endpoints(batch: Batch) -> set[int]:
    return set(np.unique(batch.rows["endpoint"]).tolist())
