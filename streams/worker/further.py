"""What records are for besides the topics of flows, as the pipeline sees it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from enrich.render.enricher import Records
from streams.kafka.record_columns import RecordColumns
from streams.worker.inflight import TrackedInput


class Routing(Protocol):
    """Chooses further topics for records; see :class:`streams.routes.topics.Routing`."""

    def route(self, records: Records) -> Iterable[tuple[str, RecordColumns]]: ...

    async def is_ready(self, topic: str) -> bool: ...

    def take_failed(self) -> dict[str, str]: ...


class PairsOfRecords(Protocol):
    """Counts the pairs of records; see :class:`streams.worker.pairs.Pairs`."""

    def count(self, inputs: Sequence[TrackedInput], records: Records) -> None: ...

    def finish(self, tracked: TrackedInput) -> None: ...
