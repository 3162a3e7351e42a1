"""Faust's application with bounds on what it reads ahead, and on what it remembers of offsets; and with a way back to
the beginning of partitions without a committed offset."""

from __future__ import annotations

import contextlib
from typing import Any, Final

import faust
from faust.transport.drivers.aiokafka import AIOKafkaConsumerThread, Consumer

from streams.worker.bounded_fetch import bound_client

MAX_PARTITION_FETCH: Final = 1 << 20
"""Bytes that a broker sends of each partition at once, compressed. Of one of them it sends a batch, however large."""


class _SeekingThread(AIOKafkaConsumerThread):  # type: ignore[misc]  # Faust has no types
    """The thread on which the client runs."""

    async def seek_to_committed(self) -> Any:
        """See :func:`seek_to_committed`."""
        return await self.call_thread(seek_to_committed, self._ensure_consumer())

    def verify_event_path(self, now: float, tp: Any) -> None:
        """Log if no record of a partition arrives.

        aiokafka asserts that a partition has a position, which it lacks for a moment after a rebalance. A check that
        only logs must not end the worker for that."""
        with contextlib.suppress(AssertionError):
            super().verify_event_path(now, tp)


async def seek_to_committed(consumer: Any) -> Any:
    """Go back to where each partition was committed, or to its beginning; return the committed offsets.

    Faust drops what it has fetched while the group was balanced anew, and goes back by this call. A fetch that began
    before waits for the new partitions inside aiokafka, and often returns their first records too early. aiokafka's own
    call leaves a partition where it is if it has no committed offset, so these records were never read."""
    committed = await consumer.seek_to_committed()
    new = [place for place, offset in committed.items() if not offset and place in consumer.assignment()]
    if new:
        await consumer.seek_to_beginning(*new)
    return committed


class _OrderedConsumer(Consumer):  # type: ignore[misc]  # Faust has no types
    """Commits the highest offset that was acknowledged, because the enricher acknowledges in the order of offsets.

    Faust's own consumer expects any order, and lists every offset between two records that it gets. Where retention
    has removed a hundred million, or a batch of so many was passed over, the list takes gigabytes; and again at each
    start."""

    def _new_consumer_thread(self) -> _SeekingThread:
        return _SeekingThread(self, loop=self.loop, beacon=self.beacon)

    async def perform_seek(self) -> None:
        """Begin to read at the committed offsets, or earlier where the application wants to."""
        await super().perform_seek()
        for tp, offset in (await self.app.earlier_starts(self._committed_offset)).items():
            await self.seek(tp, offset)

    async def _add_gap(self, tp: Any, offset_from: int, offset_to: int) -> None:
        """Note nothing: offsets without a record are committed with the next record."""

    def _new_offset(self, tp: Any) -> int | None:
        acked = self._acked[tp]
        if not acked:
            return None
        highest: int = max(acked)
        acked.clear()
        self._acked_index[tp].clear()
        return highest + 1


def bound(app: faust.App, in_flight_bytes: int) -> None:
    """Bound an application that has not started yet."""
    bound_client(in_flight_bytes)
    app.transport.Consumer = _OrderedConsumer
