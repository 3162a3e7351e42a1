"""The queue between Faust's agent and the task that enriches: bounded by what is in flight, emptied in groups."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Final, NamedTuple

from enrich.wire.batch import VERDICT
from streams.metrics.roles import EnrichMetrics
from streams.worker.inflight import InFlightTracker, TrackedInput
from streams.worker.unread import Unread, UnreadRecords

_MERGE_VERDICTS: Final = 4_000
"""Merging more verdicts than this makes none of them cheaper, and keeps Faust waiting longer."""
_MERGE_BYTES: Final = 4 << 20
_GATHER_S: Final = 0.001
"""How long :meth:`Intake.take` waits for more inputs. Faust needs several turns of the event loop to hand over each
record it has fetched; without this wait, every input would be enriched alone."""


class QueuedInput(NamedTuple):
    """An input that waits to be enriched."""

    tracked: TrackedInput
    value: bytes | Unread | None
    """The record's value, or why it was not read whole."""
    expired: int
    """How many offsets just before this one were never read, because retention removed them."""


class Intake:
    """Takes events from Faust, counts them as in flight, and hands them on in groups."""

    def __init__(
        self,
        tracker: InFlightTracker,
        metrics: EnrichMetrics,
        on_finished: Callable[[TrackedInput], None] = lambda _: None,
        unread: UnreadRecords | None = None,
    ) -> None:
        """``on_finished`` is called for each input before it is acknowledged to Faust. ``unread`` has notes about
        records that the client did not read whole; each is removed with its record."""
        self._tracker, self._metrics, self._on_finished = tracker, metrics, on_finished
        self._unread = {} if unread is None else unread
        self._queue: deque[QueuedInput] = deque()
        self._not_empty = asyncio.Event()
        self._next_offset: dict[int, int] = {}
        self.committed: dict[int, int | None] = {}
        """For each partition, the offset that was committed when its first input was queued."""
        self.last_ack = time.monotonic()
        self.acked: dict[int, int] = {}
        """For each partition, the offset after the last acknowledged input."""

    async def put(self, event: Any, committed: int | None) -> None:
        """Queue an event as soon as there is room. ``committed`` is its partition's committed offset, if it has one."""
        self._metrics.progress.note("fetch")
        message = event.message
        value: bytes | None = event.value
        size = len(value or b"")
        verdicts = size // VERDICT.itemsize
        await self._tracker.wait_for_room(verdicts, size)
        if not len(self._tracker):
            # Nothing was in flight until now, so no acknowledgement was due.
            self.last_ack = time.monotonic()
        self.committed.setdefault(message.partition, committed)
        expected = self._next_offset.get(message.partition, committed)
        unread = self._unread.pop((message.partition, message.offset), None)
        first = message.offset if unread is None else unread.first
        expired = 0 if expected is None else max(0, first - expected)
        self._next_offset[message.partition] = max(expected or 0, message.offset + 1)
        tracked = self._tracker.open(message.partition, message.offset, verdicts, size, partial(self._ack, event))
        self._queue.append(QueuedInput(tracked, unread or value, expired))
        self._not_empty.set()

    async def take(self) -> list[QueuedInput]:
        """Wait for inputs; return at least one, and no more than are worth merging."""
        while True:
            while not self._queue:
                self._not_empty.clear()
                await self._not_empty.wait()
            if not self._has_enough():
                await asyncio.sleep(_GATHER_S)
            # The partitions of the queued inputs may have been revoked meanwhile.
            if self._queue:
                break
        taken = [self._queue.popleft()]
        verdicts, size = taken[0].tracked.verdicts, taken[0].tracked.size
        while self._queue:
            verdicts += self._queue[0].tracked.verdicts
            size += self._queue[0].tracked.size
            if verdicts > _MERGE_VERDICTS or size > _MERGE_BYTES:
                break
            taken.append(self._queue.popleft())
        return taken

    def _has_enough(self) -> bool:
        verdicts = itertools.accumulate(queued.tracked.verdicts for queued in self._queue)
        return any(so_far >= _MERGE_VERDICTS for so_far in verdicts)

    def forget(self, partitions: Iterable[int]) -> None:
        """Drop the inputs of revoked partitions."""
        revoked = set(partitions)
        self._queue = deque(queued for queued in self._queue if queued.tracked.partition not in revoked)
        for partition in revoked:
            self._next_offset.pop(partition, None)
            self.committed.pop(partition, None)
            for place in [place for place in self._unread if place[0] == partition]:
                self._unread.pop(place, None)
            self.acked.pop(partition, None)

    def _ack(self, event: Any, tracked: TrackedInput) -> None:
        self._on_finished(tracked)
        event.ack()
        self._metrics.progress.note("produce")
        self.acked[tracked.partition] = tracked.offset + 1
        self.last_ack = time.monotonic()
        self._metrics.records.inc(tracked.records)
