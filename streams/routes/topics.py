"""The Kafka outputs of routes in the enricher: the file in force, and topics that are there before they are written."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from enrich.render.enricher import Records
from enrich.runtime.process import StopServiceError
from enrich.wire.topics import Topic
from streams.kafka.producer import RecordProducer
from streams.kafka.record_columns import RecordColumns
from streams.kafka.topics import existing_topics, prepare_topics
from streams.metrics.roles import EnrichMetrics
from streams.routes.live import LiveRoutes
from streams.routes.model import Routes
from streams.routes.topic_router import Placing
from streams.settings import Settings


class Routing:
    """Says what records make for the routes' topics."""

    def __init__(
        self,
        settings: Settings,
        output: RecordProducer,
        fatal: Callable[[str], None],
        metrics: EnrichMetrics,
        stop: threading.Event,
    ) -> None:
        """Reads the file and makes its topics. ``fatal`` is called for a topic that cannot be made later on.

        Raises StopServiceError."""
        self._settings, self._output, self._fatal = settings, output, fatal
        self._metrics, self._stop = metrics, stop
        self._reserved = frozenset(topic.name for topic in settings.topics)
        self._made: set[str] = set()
        self._ready: dict[str, str] = {}
        self._wanted: dict[str, tuple[Topic, str]] = {}
        self._live = LiveRoutes(Path(settings.routes), self._reserved, self._place)
        self._live.start()

    def route(self, records: Records) -> Iterator[tuple[str, RecordColumns]]:
        """Topics and their records. :meth:`wait_until_ready` is to be awaited before they are sent."""
        for sending in self._live.current.of(records):
            self._wanted[sending.topic.name] = (sending.topic, sending.compression)
            yield sending.topic.name, sending.records

    async def wait_until_ready(self, topic: str) -> None:
        """Returns when the topic is there. Waits for Kafka."""
        wanted, compression = self._wanted[topic]
        if self._ready.get(topic) == compression:
            return
        if topic not in self._made:
            try:
                await asyncio.to_thread(self._prepare, wanted)
            except StopServiceError as error:
                self._fatal(str(error))
        self._output.compress(topic, compression)
        self._ready[topic] = compression

    def problem(self) -> str | None:
        """What is wrong with the file."""
        return self._live.problem()

    def _place(self, routes: Routes) -> Placing:
        existing = existing_topics(self._settings.connection(), self._stop)
        placing = Placing(routes, self._reserved, existing, self._count)
        self._prepare(*placing.topics())
        return placing

    def _prepare(self, *wanted: Topic) -> None:
        if prepare_topics(self._settings.connection(), wanted, self._settings.replication, self._stop):
            self._made |= {topic.name for topic in wanted}

    def _count(self, route: str, outcome: str, records: int) -> None:
        self._metrics.routed_records.labels(route, outcome).inc(records)
