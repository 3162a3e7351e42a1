"""The Kafka outputs of routes at work in the enricher: hot reload of the file, and topics created before their use.

We create topics, and not the broker on the first write, because the broker would choose partitions and retention.
"""

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
from streams.routes.model import Routes
from streams.routes.routes_file import RoutesFile
from streams.routes.topic_router import TopicRouter
from streams.settings import Settings


class Routing:
    """Chooses the topics of records by the routes file in force."""

    def __init__(
        self,
        settings: Settings,
        producer: RecordProducer,
        fatal: Callable[[str], None],
        metrics: EnrichMetrics,
        stop: threading.Event,
    ) -> None:
        """Read the file and create its fixed topics. ``fatal`` is called with the reason if a topic that is needed
        later cannot be created.

        Raises StopServiceError."""
        self._settings, self._producer, self._fatal = settings, producer, fatal
        self._metrics, self._stop = metrics, stop
        self._reserved = frozenset(topic.name for topic in settings.topics)
        self._made: set[str] = set()
        self._ready: dict[str, str] = {}
        self._latest: dict[str, tuple[Topic, str]] = {}
        self._file = RoutesFile(Path(settings.routes), self._reserved, self._make_router)
        self._file.start()

    def route(self, records: Records) -> Iterator[tuple[str, RecordColumns]]:
        """Yield topics with the records for them. Await :meth:`wait_until_ready` before you send them."""
        for found in self._file.current.route(records):
            self._latest[found.topic.name] = (found.topic, found.compression)
            yield found.topic.name, found.records

    async def wait_until_ready(self, topic: str) -> None:
        """Return when Kafka has the topic; create it if it does not exist."""
        definition, compression = self._latest[topic]
        if self._ready.get(topic) == compression:
            return
        if topic not in self._made:
            try:
                await asyncio.to_thread(self._prepare, definition)
            except StopServiceError as error:
                self._fatal(str(error))
        self._producer.compress(topic, compression)
        self._ready[topic] = compression

    def problem(self) -> str | None:
        """Return what is wrong with the routes file; None if nothing is."""
        return self._file.problem()

    def _make_router(self, routes: Routes) -> TopicRouter:
        existing = existing_topics(self._settings.connection(), self._stop)
        router = TopicRouter(routes, self._reserved, existing, self._count)
        self._prepare(*router.fixed_topics())
        return router

    def _prepare(self, *topics: Topic) -> None:
        if prepare_topics(self._settings.connection(), topics, self._settings.replication, self._stop):
            self._made |= {topic.name for topic in topics}

    def _count(self, route: str, outcome: str, records: int) -> None:
        self._metrics.routed_records.labels(route, outcome).inc(records)
