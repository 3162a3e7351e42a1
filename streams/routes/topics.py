"""The Kafka outputs of routes at work in the enricher: hot reload of the file, and topics created before their use.

We create topics, and not the broker on the first write, because the broker would choose partitions and retention.

A topic that cannot be made or written (a right is missing, the broker's policy forbids it, somebody deleted it) stops
nothing else: its records are dropped and counted (outcome ``topic_failed``), ``/readyz`` and the status topic name it,
and it is tried again, first after a second, then ever more rarely, up to once in 5 minutes.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

import structlog

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

log = structlog.get_logger("kubeweir.streams")

_FIRST_RETRY_S: Final = 1.0
_MAX_RETRY_S: Final = 300.0


@dataclass(slots=True)
class _Failure:
    """A topic that cannot be made or written."""

    error: str
    retry_at: float
    """When it is tried again, in seconds of the monotonic clock."""
    retry_s: float = _FIRST_RETRY_S


class _Routed(NamedTuple):
    """What was sent to a topic last, without the records."""

    route: str
    topic: Topic
    compression: str
    records: int
    """How many there were."""


class Routing:
    """Chooses the topics of records by the routes file in force."""

    def __init__(
        self, settings: Settings, producer: RecordProducer, metrics: EnrichMetrics, stop: threading.Event
    ) -> None:
        """Read the file and create its fixed topics. Raises StopServiceError if the file is missing or wrong."""
        self._settings, self._producer = settings, producer
        self._metrics, self._stop = metrics, stop
        self._reserved = frozenset(topic.name for topic in settings.topics)
        self._made: set[str] = set()
        self._ready: dict[str, str] = {}
        self._latest: dict[str, _Routed] = {}
        self._failures: dict[str, _Failure] = {}
        self._unreported: dict[str, str] = {}
        self._file = RoutesFile(Path(settings.routes), self._reserved, self._make_router)
        self._file.start()

    def route(self, records: Records) -> Iterator[tuple[str, RecordColumns]]:
        """Yield topics with the records for them. Await :meth:`is_ready` before you send them."""
        for found in self._file.current.route(records):
            self._latest[found.topic.name] = _Routed(
                found.route, found.topic, found.compression, len(found.records.values)
            )
            yield found.topic.name, found.records

    async def is_ready(self, topic: str) -> bool:
        """Return whether records may be sent to a topic that :meth:`route` has just yielded; create it if it does not
        exist. If it cannot be created, its records are counted, and are not to be sent."""
        found = self._latest[topic]
        failure = self._failures.get(topic)
        if failure is None and self._ready.get(topic) == found.compression:
            return True
        if failure is not None and time.monotonic() < failure.retry_at:
            self._drop(topic, found.records)
            return False
        if failure is not None or topic not in self._made:
            await asyncio.to_thread(self._prepare, found.topic)
            if topic in self._failures:
                self._drop(topic, found.records)
                return False
        self._producer.compress(topic, found.compression)
        self._ready[topic] = found.compression
        return True

    def is_own(self, topic: str) -> bool:
        """Return whether the topic is one of a route."""
        return topic not in self._reserved

    def on_refused(self, topic: str, error: str) -> None:
        """Note that Kafka did not take a record for the topic of a route (any thread)."""
        self._fail(topic, error)
        self._drop(topic, 1)

    def take_failed(self) -> dict[str, str]:
        """Return the topics that failed since the last call, with the errors."""
        found, self._unreported = self._unreported, {}
        return found

    def problem(self) -> str | None:
        """Return what is wrong with the routes file or with a topic; None if nothing is."""
        failed = "; ".join(f"topic {topic}: {failure.error}" for topic, failure in sorted(self._failures.items()))
        return self._file.problem() or failed or None

    def _make_router(self, routes: Routes) -> TopicRouter:
        existing = existing_topics(self._settings.connection(), self._stop)
        router = TopicRouter(routes, self._reserved, existing, self._count)
        # The new file may not have the topics that failed; those that it has are tried at once.
        self._failures.clear()
        for topic in router.fixed_topics():
            self._prepare(topic)
        return router

    def _prepare(self, topic: Topic) -> None:
        """Create the topic if it does not exist, and note whether that failed."""
        try:
            if prepare_topics(self._settings.connection(), [topic], self._settings.replication, self._stop):
                self._made.add(topic.name)
                self._failures.pop(topic.name, None)
        except StopServiceError as error:
            self._fail(topic.name, str(error))

    def _fail(self, topic: str, error: str) -> None:
        before = self._failures.get(topic)
        now = time.monotonic()
        if before is not None and now < before.retry_at:
            return
        retry_s = _FIRST_RETRY_S if before is None else min(2 * before.retry_s, _MAX_RETRY_S)
        self._failures[topic] = _Failure(error, now + retry_s, retry_s)
        if before is None or before.error != error:
            self._unreported[topic] = error
            log.error(
                "the topic of a route cannot be made or written. Its records are dropped and counted, all others go "
                "on; it is tried again",
                topic=topic, error=error, retry_s=retry_s,
            )  # fmt: skip

    def _drop(self, topic: str, records: int) -> None:
        found = self._latest.get(topic)
        if found is not None:
            self._count(found.route, "topic_failed", records)

    def _count(self, route: str, outcome: str, records: int) -> None:
        self._metrics.routed_records.labels(route, outcome).inc(records)
