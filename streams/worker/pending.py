"""Rows that wait a moment, because the cluster's index may not have heard yet of the pods that they are about.

A row waits until the index has been told everything up to the row's time, and while one of its ends is unsettled: a pod
that is not known yet, an address that is likely a pod's, one whose owner is not certain. Not longer than ``hold`` from
its own time, nor from when it came; and not when too much waits already, then the oldest go first. A row that waits
holds back later rows of its own pod, no others. Values only: who sends what is let go is
:mod:`streams.worker.pipeline`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, Protocol

import numpy as np

from enrich.render.merged_batch import Mask, MergedBatch
from enrich.render.peer_lookup import Lookup
from streams.worker.inflight import TrackedInput

GUARD_NS: Final = 100_000_000
"""What a kubelet and the API server take to tell what a node's kernel knows already."""

Pod = tuple[str, int]
"""Ring and endpoint number: a local pod."""


class Looker(Protocol):
    """See :class:`enrich.render.enricher.Enricher`."""

    @property
    def generation(self) -> int: ...

    def lookup(self, batch: MergedBatch) -> Lookup: ...


@dataclass(slots=True, eq=False)
class _Part:
    """Rows that came together and wait, and what was looked up of them in a state of the index."""

    inputs: Sequence[TrackedInput]
    batch: MergedBatch
    came_ns: int
    generation: int
    unsettled: Mask
    pods: frozenset[Pod] = field(default=frozenset())


class Released(NamedTuple):
    """Rows that need not wait any longer."""

    inputs: Sequence[TrackedInput]
    """What they came in, by the rows' ``owner``."""
    batch: MergedBatch
    late: int
    """How many of them go because they have waited for as long as they may."""
    full: bool
    """They go because too much waits."""


class PendingVerdicts:
    """What waits, in the order in which it came."""

    def __init__(
        self,
        looker: Looker,
        synced_until_ns: Callable[[], int],
        hold_ns: int,
        max_bytes: int,
        now_ns: Callable[[], int],
    ) -> None:
        self.bytes = 0
        self._looker, self._read_until_ns = looker, synced_until_ns
        self._hold_ns, self._max_bytes, self._now_ns = hold_ns, max_bytes, now_ns
        self._parts: list[_Part] = []
        self._open: dict[TrackedInput, int] = {}
        """How many rows of an input wait, or are on their way out."""

    def __len__(self) -> int:
        return len(self._parts)

    def until_ns(self) -> int:
        """Up to which row's time the index knows everything."""
        return self._read_until_ns() - GUARD_NS

    def holds(self, tracked: TrackedInput) -> bool:
        """Whether rows of this input wait, or are on their way out."""
        return tracked in self._open

    def forget(self, partitions: Iterable[int]) -> None:
        """Another worker has these now."""
        gone = set(partitions)
        self.abandon({one for part in self._parts for one in part.inputs if one.partition in gone})

    def abandon(self, inputs: Iterable[TrackedInput]) -> None:
        """Their rows need not go out any more."""
        gone = set(inputs)
        for part in tuple(self._parts):
            left = np.array([one not in gone for one in part.inputs])
            if not left.all():
                self._keep(part, left[part.batch.owner])
        for tracked in gone:
            self._open.pop(tracked, None)

    def split(
        self, inputs: Sequence[TrackedInput], batch: MergedBatch, unsettled: Mask | None, until_ns: int
    ) -> Mask | None:
        """Keep the verdicts that must wait. Return which verdicts go out now, or None if all of them do.

        ``unsettled`` is what a lookup found; ``until_ns`` is :meth:`until_ns` as it was before that lookup."""
        if unsettled is None and not self._parts and batch.wall.max() <= until_ns:
            return None  # the usual case by far
        now = self._now_ns()
        if unsettled is None:
            unsettled = np.zeros(len(batch.verdicts), bool)
        before = {pod for part in self._parts for pod in part.pods}
        waits = self._waits(batch, unsettled, now, now, until_ns, before)
        if waits is None:
            return None
        kept = batch.pick(waits)
        part = _Part(inputs, kept, now, self._looker.generation, unsettled[waits], _pods(kept))
        self._parts.append(part)
        self.bytes += kept.verdicts.nbytes
        for tracked, verdicts in _counts(inputs, kept):
            self._open[tracked] = self._open.get(tracked, 0) + verdicts
        return ~waits

    def release(self) -> Iterator[Released]:
        """What need not wait any longer, a pod's rows in their order; :meth:`done` is to be told when it is out."""
        until, now = self.until_ns(), self._now_ns()
        before: set[Pod] = set()
        for part in tuple(self._parts):
            if part not in self._parts:
                continue  # forgotten while others were sent
            full = self.bytes > self._max_bytes
            waits = None if full else self._still_waits(part, now, until, before)
            late = 0 if waits is not None and waits.all() else self._late(part, until, waits)
            going = part.batch if waits is None else part.batch.pick(~waits)
            self._keep(part, waits)
            before |= part.pods
            if len(going.verdicts):
                yield Released(part.inputs, going, late, full)

    def done(self, released: Released) -> Iterator[TrackedInput]:
        """Rows that were let go are out; those inputs of which no row is left."""
        for tracked, verdicts in _counts(released.inputs, released.batch):
            if tracked in self._open:
                self._open[tracked] -= verdicts
                if not self._open[tracked]:
                    del self._open[tracked]
                    yield tracked

    def _still_waits(self, part: _Part, now: int, until: int, before: set[Pod]) -> Mask | None:
        if part.generation != self._looker.generation:
            part.generation = self._looker.generation
            lookup_result = self._looker.lookup(part.batch).unsettled
            part.unsettled = np.zeros(len(part.batch.verdicts), bool) if lookup_result is None else lookup_result
        return self._waits(part.batch, part.unsettled, part.came_ns, now, until, before)

    def _waits(
        self, batch: MergedBatch, unsettled: Mask, came: int, now: int, until: int, before: set[Pod]
    ) -> Mask | None:
        """Which rows wait; None: none."""
        wall = batch.wall
        # A clock that is ahead does not make its rows wait for longer.
        waits: Mask = ((wall > until) | unsettled) & (np.minimum(wall, came) + self._hold_ns > now)
        rings = _rings(batch)
        pods = _codes(batch, rings)
        behind = [rings[ring] << 32 | endpoint for ring, endpoint in before if ring in rings]
        if behind:
            waits |= np.isin(pods, behind)
        if not waits.any():
            return None
        if not waits.all():
            # Of each pod all from the first that waits.
            _, pod = np.unique(pods, return_inverse=True)
            places = np.arange(len(pods))
            first = np.full(int(pod.max()) + 1, len(pods))
            np.minimum.at(first, pod[waits], places[waits])
            waits = places >= first[pod]
        return waits

    @staticmethod
    def _late(part: _Part, until: int, waits: Mask | None) -> int:
        late = part.unsettled | (part.batch.wall > until)
        return int(np.count_nonzero(late if waits is None else late & ~waits))

    def _keep(self, part: _Part, verdicts: Mask | None) -> None:
        """No more than these of a part; None: nothing."""
        if verdicts is not None and verdicts.all():
            return
        self.bytes -= part.batch.verdicts.nbytes
        if verdicts is None or not verdicts.any():
            part.pods = frozenset()
            self._parts.remove(part)
            return
        part.batch, part.unsettled = part.batch.pick(verdicts), part.unsettled[verdicts]
        part.pods = _pods(part.batch)
        self.bytes += part.batch.verdicts.nbytes


def _counts(inputs: Sequence[TrackedInput], batch: MergedBatch) -> Iterator[tuple[TrackedInput, int]]:
    """How many rows are here of each input that has any."""
    counts = np.bincount(batch.owner).tolist()
    return ((inputs[place], verdicts) for place, verdicts in enumerate(counts) if verdicts)


def _rings(batch: MergedBatch) -> dict[str, int]:
    """The rings of some batches, numbered."""
    return {ring: number for number, ring in enumerate(dict.fromkeys(header.ring for header in batch.headers))}


def _codes(batch: MergedBatch, rings: dict[str, int]) -> np.ndarray[Any, np.dtype[np.int64]]:
    """One number for the local pod of each row."""
    ring = np.array([rings[header.ring] for header in batch.headers], np.int64)
    codes: np.ndarray[Any, np.dtype[np.int64]] = ring[batch.owner] << 32 | batch.verdicts["endpoint"]
    return codes


def _pods(batch: MergedBatch) -> frozenset[Pod]:
    rings = _rings(batch)
    names = list(rings)
    return frozenset((names[code >> 32], code & 0xFFFFFFFF) for code in np.unique(_codes(batch, rings)).tolist())
