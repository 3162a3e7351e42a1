"""What Faust has read and waits to be enriched: bounded by what is in flight, and taken together."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import deque
from collections.abc import Iterable
from functools import partial
from typing import Any, Final

from enrich.wire.batch import VERDICT
from streams.metrics.roles import EnrichMetrics
from streams.worker.inflight import InFlightTracker, TrackedInput

_TOGETHER_ROWS: Final = 4_000
"""More at a time make a row no cheaper, and keep Faust waiting for longer."""
_TOGETHER_BYTES: Final = 4 << 20
_GATHER_S: Final = 0.001
"""What Faust gets to hand on more of what it has read: it needs several turns of the loop for each record, so that
without them every record would be taken alone."""


class Intake:
    """Between Faust's agent and the task that enriches: what was read, bounded by what is in flight."""

    def __init__(self, ledger: InFlightTracker, metrics: EnrichMetrics) -> None:
        self._ledger, self._metrics = ledger, metrics
        self._waiting: deque[tuple[TrackedInput, bytes | None, int]] = deque()
        self._some = asyncio.Event()
        self._read: dict[int, int] = {}
        self.last_ack = time.monotonic()
        self.acked: dict[int, int] = {}
        """For each partition the offset after the last one acknowledged."""

    async def put(self, event: Any, committed: int | None) -> None:
        """Take over an event, once there is room. ``committed``: its partition's committed offset, if there is one."""
        message = event.message
        value: bytes | None = event.value
        size = len(value or b"")
        verdicts = size // VERDICT.itemsize
        await self._ledger.wait_for_room(verdicts, size)
        if not len(self._ledger):
            # Nothing was waited for until now.
            self.last_ack = time.monotonic()
        expected = self._read.get(message.partition, committed)
        expired = 0 if expected is None else max(0, message.offset - expected)
        self._read[message.partition] = max(expected or 0, message.offset + 1)
        tracked = self._ledger.open(message.partition, message.offset, verdicts, size, partial(self._ack, event))
        self._waiting.append((tracked, value, expired))
        self._some.set()

    async def take(self) -> list[tuple[TrackedInput, bytes | None, int]]:
        """What waits, at least one, and no more than is well taken together: what to account to it, its bytes, how
        many offsets before it were skipped."""
        while True:
            while not self._waiting:
                self._some.clear()
                await self._some.wait()
            if not self._is_full():
                await asyncio.sleep(_GATHER_S)
            # It may have been forgotten meanwhile.
            if self._waiting:
                break
        taken = [self._waiting.popleft()]
        verdicts, size = taken[0][0].verdicts, taken[0][0].size
        while self._waiting:
            verdicts += self._waiting[0][0].verdicts
            size += self._waiting[0][0].size
            if verdicts > _TOGETHER_ROWS or size > _TOGETHER_BYTES:
                break
            taken.append(self._waiting.popleft())
        return taken

    def _is_full(self) -> bool:
        verdicts = itertools.accumulate(tracked.verdicts for tracked, _, _ in self._waiting)
        return any(so_far >= _TOGETHER_ROWS for so_far in verdicts)

    def forget(self, partitions: Iterable[int]) -> None:
        """Another worker has these now."""
        gone = set(partitions)
        self._waiting = deque(item for item in self._waiting if item[0].partition not in gone)
        for partition in gone:
            self._read.pop(partition, None)
            self.acked.pop(partition, None)

    def _ack(self, event: Any, tracked: TrackedInput) -> None:
        event.ack()
        self.acked[tracked.partition] = tracked.offset + 1
        self.last_ack = time.monotonic()
        self._metrics.records.inc(tracked.records)
