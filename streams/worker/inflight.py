"""What is in flight: which input may be acknowledged, because Kafka has every record that was made from it.

Faust acknowledges by input record; our output is many records an input, acknowledged by librdkafka on its own thread,
in any order. Here each input counts its records down; inputs are acknowledged strictly in the order of their offsets in
a partition, for Faust commits the highest offset that it was told. Two threads meet here: the event loop opens, expects
and closes; the poll thread delivers. Each number has one writer, so no lock is needed.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Protocol


class OnError(Protocol):
    """Called on the poll thread for a record that Kafka did not take: ``error`` and ``message`` are librdkafka's."""

    def __call__(self, tracked: TrackedInput, error: Any, message: Any) -> None: ...


Ack = Callable[["TrackedInput"], Any]
"""Tells the reader that an input need not come again."""


class TrackedInput:
    """One input record, and how many of the records made from it Kafka has not acknowledged yet."""

    __slots__ = ("_ack", "_closed", "_done", "_expected", "_ledger", "offset", "partition", "size", "verdicts")

    def __init__(
        self, ledger: InFlightTracker, partition: int, offset: int, verdicts: int, size: int, ack: Ack
    ) -> None:
        self.partition, self.offset, self.verdicts, self.size = partition, offset, verdicts, size
        self._ledger, self._ack = ledger, ack
        self._expected = self._done = 0
        self._closed = False

    def expect(self, records: int = 1) -> None:
        """So many more records are about to be sent (event loop)."""
        self._expected += records

    def withdraw(self) -> None:
        """One record that was expected will not come: another takes its place, expected on its own (event loop)."""
        self._expected -= 1

    @property
    def records(self) -> int:
        """How many were made from it."""
        return self._expected

    def on_delivery(self, error: Any, message: Any) -> None:
        """The delivery callback of one record (poll thread)."""
        if error is not None:
            self._ledger.on_error(self, error, message)
            return
        self._done += 1
        if self._closed and self._done == self._expected:
            self._ledger.wake()

    def close(self) -> None:
        """No more records will be made from it (event loop)."""
        self._closed = True
        if self._done == self._expected:
            self._ledger.wake()

    @property
    def finished(self) -> bool:
        """Kafka has all of it."""
        return self._closed and self._done == self._expected

    def acknowledge(self) -> None:
        """Tell the reader that it need not come again."""
        self._ack(self)


class InFlightTracker:
    """All that is in flight, by partition, bounded in rows and bytes."""

    def __init__(
        self,
        max_verdicts: int,
        max_bytes: int,
        call_soon: Callable[[Callable[[], None]], Any],
        on_error: OnError,
    ) -> None:
        """``call_soon`` runs a function on the event loop, from any thread."""
        self.verdicts = self.bytes = 0
        self.on_error = on_error
        self._max_verdicts, self._max_bytes = max_verdicts, max_bytes
        self._call_soon = call_soon
        self._queues: dict[int, deque[TrackedInput]] = {}
        self._woken = False
        self._room = asyncio.Event()

    def __len__(self) -> int:
        return sum(len(queue) for queue in self._queues.values())

    def open(self, partition: int, offset: int, verdicts: int, size: int, ack: Ack) -> TrackedInput:
        """A new input; inputs of one partition are opened in the order of their offsets."""
        tracked = TrackedInput(self, partition, offset, verdicts, size, ack)
        self._queues.setdefault(partition, deque()).append(tracked)
        self.verdicts += verdicts
        self.bytes += size
        return tracked

    async def wait_for_room(self, verdicts: int, size: int) -> None:
        """Until an input of that size fits. One that is larger than the bounds fits when nothing else is in flight."""
        while len(self) and (self.verdicts + verdicts > self._max_verdicts or self.bytes + size > self._max_bytes):
            self._room.clear()
            await self._room.wait()

    def wake(self) -> None:
        """Drain soon, once however often it is asked (any thread)."""
        if not self._woken:
            self._woken = True
            self._call_soon(self.drain)

    def drain(self) -> None:
        """Acknowledge what may be (event loop)."""
        self._woken = False
        for queue in self._queues.values():
            while queue and queue[0].finished:
                tracked = queue.popleft()
                self._drop(tracked)
                tracked.acknowledge()

    def forget(self, partitions: Iterable[int]) -> None:
        """Another worker has these now: what is in flight of them is never acknowledged here."""
        for partition in partitions:
            for tracked in self._queues.pop(partition, ()):
                self._drop(tracked)

    def _drop(self, tracked: TrackedInput) -> None:
        self.verdicts -= tracked.verdicts
        self.bytes -= tracked.size
        self._room.set()
