"""Handles records that Kafka does not take.

A record that Kafka refuses because of its content is retried once in a batch of its own, since its batch may have been
refused because of another record; if it is refused again, a dead letter takes its place. Any other refusal stops the
enricher (:mod:`streams.worker.missing_rights`), unless the record is for the topic of a route.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import structlog

from streams.kafka.dead_letter_form import CUT_VALUE_BYTES
from streams.kafka.errors import is_refused, lacks_right, topic_error
from streams.kafka.producer import RecordProducer
from streams.metrics.roles import EnrichMetrics
from streams.settings import Settings
from streams.worker.inflight import TrackedInput
from streams.worker.pipeline import Pipeline
from streams.worker.sender import event_time_ms, reports_of, until_queued

log = structlog.get_logger("kubeweir.streams")


class RoutedTopics(Protocol):
    """Knows the topics of routes; see :class:`streams.routes.topics.Routing`."""

    def is_own(self, topic: str) -> bool: ...

    def on_refused(self, topic: str, error: str) -> None: ...


class Refusals:
    """Retries, replaces or gives up the records of one worker that Kafka did not take."""

    def __init__(
        self,
        settings: Settings,
        pipeline: Pipeline,
        producer: RecordProducer,
        metrics: EnrichMetrics,
        loop: asyncio.AbstractEventLoop,
        on_fatal: Callable[[str, str], None],
    ) -> None:
        """``on_fatal`` takes an error after which nothing more is sent, and the topic if a right on it is missing, else
        an empty text; any thread may call it."""
        self.routing: RoutedTopics | None = None
        """Set if there are routes."""
        self._settings, self._pipeline, self._producer, self._metrics = settings, pipeline, producer, metrics
        self._loop, self._on_fatal = loop, on_fatal
        self._retries: set[asyncio.Task[None]] = set()

    def on_error(self, tracked: TrackedInput, error: Any, message: Any) -> None:
        """Retry a record that Kafka did not take, or send nothing more (poll thread)."""
        if not is_refused(error):
            self._on_denied(tracked, error, message)
            return
        if message.topic() == self._settings.topics.dead.name:
            self._on_dead_letter_refused(tracked, error, message)
        else:
            self._loop.call_soon_threadsafe(self._run_soon, self._retry, tracked, message)

    def _on_dead_letter_refused(self, tracked: TrackedInput, error: Any, message: Any) -> None:
        """Send the dead letter again if it can still be cut; else give it up, because it would stop all others."""
        value = message.value()
        if len(value) > CUT_VALUE_BYTES:
            again = (tracked, message.key(), value, message.headers())
            self._loop.call_soon_threadsafe(self._run_soon, self._pipeline.resend_dead_letter, *again)
            return
        log.error("a dead letter is lost: Kafka refuses it even when it is cut", key=message.key(), error=error.str())
        self._metrics.lost_dead_letters.inc()
        tracked.on_delivery(None, message)

    def _on_retried(self, tracked: TrackedInput, error: Any, message: Any) -> None:
        """Take the delivery report of a record that was retried in a batch of its own (poll thread)."""
        if error is None:
            self._delivered(tracked, message.topic(), message.value())(None, message)
        elif is_refused(error):
            self._loop.call_soon_threadsafe(self._run_soon, self._replace, tracked, message, error)
        else:
            self._on_denied(tracked, error, message)

    def _delivered(self, tracked: TrackedInput, topic: str, value: bytes) -> Callable[[Any, Any], None]:
        """Return the method that takes the delivery report of a record; librdkafka knows only that of the first try."""
        topics = self._settings.topics
        return getattr(tracked, reports_of(topics, topic, value))  # type: ignore[no-any-return]  # one of three

    def _on_denied(self, tracked: TrackedInput, error: Any, message: Any) -> None:
        """Give up the record if it is for the topic of a route; send nothing more if it is for one of ours (poll
        thread)."""
        if self.routing is None or not self.routing.is_own(message.topic()):
            text = topic_error(self._settings.connection(), error, "WRITE", message.topic())
            self._on_fatal(text, message.topic() if lacks_right(error) else "")
        else:
            self.routing.on_refused(message.topic(), error.str())
            tracked.on_delivery(None, message)

    def _run_soon(self, step: Any, *arguments: Any) -> None:
        task = self._loop.create_task(step(*arguments))
        self._retries.add(task)
        task.add_done_callback(self._retries.discard)

    async def _retry(self, tracked: TrackedInput, message: Any) -> None:
        """Send the record in a batch of its own: a broker refuses a whole batch because of one record in it."""
        self._metrics.retried_records.inc()
        callback = partial(self._on_retried, tracked)
        topic, timestamp_ms = message.topic(), event_time_ms(message.value())
        offer = self._producer.offer_alone
        await until_queued(partial(offer, topic, message.key(), message.value(), timestamp_ms, callback))

    async def _replace(self, tracked: TrackedInput, message: Any, error: Any) -> None:
        await self._pipeline.replace_refused(tracked, message.topic(), message.value(), error.str())
