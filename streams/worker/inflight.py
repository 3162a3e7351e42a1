"""Which inputs are in flight: read, but not acknowledged, because records made from them are still on their way.

Theory of operation. Faust acknowledges an input when the agent is done with it. That is too early here: one input, a
batch, becomes hundreds of records, which librdkafka sends and acknowledges later, on its own thread, in any order. And
Faust commits the highest offset that was acknowledged, so an early one would also commit the inputs before it. An
example with two inputs of partition 2:

1. The event loop opens input 77, then 78. Both count as in flight, in verdicts and bytes.
2. It sends 3 records of input 77 (``expect(3)``) and 1 of input 78 (``expect()``), and closes both.
3. The poll thread gets the acknowledgement for the record of 78. Input 78 is finished, but waits behind 77.
4. The poll thread gets the third acknowledgement for 77 and wakes the event loop.
5. The event loop drains the queue of partition 2 from its head: it acknowledges 77, then 78. Faust commits 79.

If the process dies before step 5, both inputs are read again, and records that Kafka has already are repeated, with the
same id and bytes. The bounds on what is in flight are the backpressure: at a full tracker, Faust stops reading.

Each counter is written by one thread only (``_expected`` by the event loop, ``_delivered`` by the poll thread), so no
lock is needed.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Protocol


class OnError(Protocol):
    """Called on the poll thread when Kafka did not take a record; ``error`` and ``message`` are librdkafka's."""

    def __call__(self, tracked: TrackedInput, error: Any, message: Any) -> None: ...


Ack = Callable[["TrackedInput"], Any]
"""Acknowledges an input to its reader, which may then commit its offset."""


class TrackedInput:
    """One input, and how many of the records made from it Kafka has not acknowledged yet."""

    __slots__ = (
        "_ack", "_closed", "_delivered", "_expected", "_tracker", "dead", "enriched", "offset", "pairs", "partition",
        "refused", "size", "uncounted", "unlogged", "verdicts", "written",
    )  # fmt: skip

    def __init__(
        self, tracker: InFlightTracker, partition: int, offset: int, verdicts: int, size: int, ack: Ack
    ) -> None:
        self.partition, self.offset, self.verdicts, self.size = partition, offset, verdicts, size
        self._tracker, self._ack = tracker, ack
        self._expected = self._delivered = 0
        self._closed = False
        self.enriched = self.dead = self.refused = 0
        """Verdicts of which records were made, or dead letters; and records that Kafka refused (event loop)."""
        self.pairs: Any = None
        """What it adds to the counts of pairs (:mod:`streams.worker.pair_counter`)."""
        self.uncounted = False
        """Whether some of its verdicts could not be counted."""
        self.written = self.unlogged = 0
        """Records that Kafka has, each the one of its verdict: logged, and for alerts only (poll thread)."""

    def expect(self, records: int = 1) -> None:
        """Count records that are about to be sent (event loop)."""
        self._expected += records

    def withdraw(self) -> None:
        """Stop expecting one record: another one, expected separately, was sent in its place (event loop)."""
        self._expected -= 1

    @property
    def records(self) -> int:
        """How many records were made from the input."""
        return self._expected

    def on_delivery(self, error: Any, message: Any) -> None:
        """Take librdkafka's delivery report of one record (poll thread)."""
        if error is not None:
            self._tracker.on_error(self, error, message)
            return
        self._delivered += 1
        if self._closed and self._delivered == self._expected:
            self._tracker.wake()

    def on_written(self, error: Any, message: Any) -> None:
        """Take the delivery report of the record of a verdict (poll thread)."""
        if error is not None:
            self._tracker.on_error(self, error, message)
            return
        self.written += 1
        # As in on_delivery, to call which would cost as much as all of this, for each record.
        self._delivered += 1
        if self._closed and self._delivered == self._expected:
            self._tracker.wake()

    def on_unlogged(self, error: Any, message: Any) -> None:
        """Take the delivery report of the record of a denial that is not logged (poll thread)."""
        if error is None:
            self.unlogged += 1
        self.on_delivery(error, message)

    def close(self) -> None:
        """Declare that no more records will be made from the input (event loop)."""
        self._closed = True
        if self._delivered == self._expected:
            self._tracker.wake()

    @property
    def finished(self) -> bool:
        """Whether the input is closed and Kafka has all of its records."""
        return self._closed and self._delivered == self._expected

    def acknowledge(self) -> None:
        """Acknowledge the input to its reader."""
        self._ack(self)


class InFlightTracker:
    """Everything in flight, queued by partition, with bounds in verdicts and bytes."""

    def __init__(
        self,
        max_verdicts: int,
        max_bytes: int,
        call_soon: Callable[[Callable[[], None]], Any],
        on_error: OnError,
    ) -> None:
        """``call_soon`` schedules a function on the event loop, from any thread."""
        self.verdicts = self.bytes = 0
        self.on_error = on_error
        self._max_verdicts, self._max_bytes = max_verdicts, max_bytes
        self._call_soon = call_soon
        self._queues: dict[int, deque[TrackedInput]] = {}
        self._drain_scheduled = False
        self._room = asyncio.Event()

    def __len__(self) -> int:
        return sum(len(queue) for queue in self._queues.values())

    def open(self, partition: int, offset: int, verdicts: int, size: int, ack: Ack) -> TrackedInput:
        """Track a new input. The inputs of a partition must be opened in the order of their offsets."""
        tracked = TrackedInput(self, partition, offset, verdicts, size, ack)
        self._queues.setdefault(partition, deque()).append(tracked)
        self.verdicts += verdicts
        self.bytes += size
        return tracked

    async def wait_for_room(self, verdicts: int, size: int) -> None:
        """Wait until an input of that size fits. One larger than the bounds fits when nothing else is in flight."""
        while len(self) and (self.verdicts + verdicts > self._max_verdicts or self.bytes + size > self._max_bytes):
            self._room.clear()
            await self._room.wait()

    def wake(self) -> None:
        """Schedule :meth:`drain`, unless it is scheduled already (any thread)."""
        if not self._drain_scheduled:
            self._drain_scheduled = True
            self._call_soon(self.drain)

    def drain(self) -> None:
        """Acknowledge the finished inputs at the head of each queue (event loop)."""
        self._drain_scheduled = False
        for queue in self._queues.values():
            while queue and queue[0].finished:
                tracked = queue.popleft()
                self._release(tracked)
                tracked.acknowledge()

    def forget(self, partitions: Iterable[int]) -> None:
        """Drop the inputs of revoked partitions: they are never acknowledged here, and their next owner reads them."""
        for partition in partitions:
            for tracked in self._queues.pop(partition, ()):
                self._release(tracked)

    def _release(self, tracked: TrackedInput) -> None:
        self.verdicts -= tracked.verdicts
        self.bytes -= tracked.size
        self._room.set()
