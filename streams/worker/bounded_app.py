"""Faust's application with bounds on what it reads ahead, and on what it remembers of offsets."""

from __future__ import annotations

from typing import Any, Final

import faust
from faust.transport.drivers.aiokafka import Consumer

from streams.worker.bounded_fetch import bound_client

MAX_PARTITION_FETCH: Final = 1 << 20
"""Bytes that a broker sends of each partition at once, compressed. Of one of them it sends a batch, however large."""


class _OrderedConsumer(Consumer):  # type: ignore[misc]  # Faust has no types
    """Commits the highest offset that was acknowledged, because the enricher acknowledges in the order of offsets.

    Faust's own consumer expects any order, and lists every offset between two records that it gets. Where retention
    has removed a hundred million, or a batch of so many was passed over, the list takes gigabytes; and again at each
    start."""

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
