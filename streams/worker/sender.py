"""Sends what is made from an input, with backpressure, and counts it as expected from that input.

Every record, dead letter and status record is expected before it is offered to the producer, so that the input stays in
flight until Kafka has all of them (:mod:`streams.worker.inflight`).
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final, Literal, Protocol

import orjson
import structlog

from enrich.runtime.version import version_text
from enrich.wire.topics import Topics
from streams.forms.reading import time_ms
from streams.kafka.dead_letter_form import Headers, cut, headers_of, key_of
from streams.kafka.record_columns import RecordColumns
from streams.kafka.refused_message import RefusedMessage
from streams.metrics.roles import EnrichMetrics
from streams.worker.inflight import TrackedInput
from streams.worker.unread import Unread, Value

log = structlog.get_logger("kubeweir.streams")

_MAX_LOGGED_ERROR: Final = 300
"""Characters of an error that are logged: it may quote a hostile record."""
_FULL_QUEUE_WAIT_S: Final = 0.01
"""librdkafka does not say when its full queue has room again, so it is asked this often."""


Reports = Literal["on_delivery", "on_written", "on_unlogged"]
"""The methods of :class:`streams.worker.inflight.TrackedInput` that take delivery reports."""


class Producer(Protocol):
    """See :class:`streams.kafka.producer.RecordProducer`."""

    def offer(
        self, topic: str, key: bytes, value: bytes, timestamp_ms: int, on_delivery: Any, headers: Any = None
    ) -> bool: ...

    def offer_all(self, topic: str, records: RecordColumns, callbacks: Sequence[Any], start: int) -> int: ...


class Sender:
    """Sends to the topics of one enricher."""

    def __init__(self, producer: Producer, topics: Topics, metrics: EnrichMetrics, worker: str) -> None:
        """``worker`` names this process in status records."""
        self._producer, self._topics, self._metrics, self._worker = producer, topics, metrics, worker
        self._version = version_text()[:64]

    async def send_all(
        self, inputs: Sequence[TrackedInput], topic: str, records: RecordColumns, reports: Reports = "on_delivery"
    ) -> None:
        """Send records, each made from the input that ``records.owners`` names by its index in ``inputs``.

        ``reports`` is the method of the inputs that takes the delivery reports. Verdicts count as enriched if it counts
        their records; ``on_delivery`` is for copies."""
        for owner, count in Counter(records.owners).items():
            inputs[owner].expect(count)
            inputs[owner].enriched += 0 if reports == "on_delivery" else count
        by_owner = [getattr(tracked, reports) for tracked in inputs]
        callbacks = [by_owner[owner] for owner in records.owners]
        sent = self._producer.offer_all(topic, records, callbacks, 0)
        while sent < len(callbacks):
            await asyncio.sleep(_FULL_QUEUE_WAIT_S)
            sent = self._producer.offer_all(topic, records, callbacks, sent)

    async def send_dead_letter(
        self, tracked: TrackedInput, value: bytes, reason: str, error: str,
        original: Sequence[tuple[str, bytes]] = (), output: str = "",
    ) -> None:  # fmt: skip
        """Send ``value`` to the dead-letter topic, with the place of its input and the reason as headers.

        A value that is too large is cut. ``original`` says what it was, if it was cut already; ``output`` is the topic
        that has refused it."""
        topic, partition, offset = self._topics.raw.name, str(tracked.partition), str(tracked.offset)
        self._metrics.dead_letters.labels(reason).inc()
        log.warning(
            "dead letter",
            reason=reason,
            topic=topic,
            partition=partition,
            offset=offset,
            error=error[:_MAX_LOGGED_ERROR],
        )
        place = topic, tracked.partition, tracked.offset
        headers = [*headers_of(*place, reason, error, output=output), *original]
        key = key_of(*place)
        dead = self._topics.dead.name
        kept, described = cut(value, headers)

        def on_delivery(error: Any, message: Any) -> None:
            """Take the delivery report (poll thread)."""
            tracked.on_delivery(error, message if error is None else RefusedMessage(dead, key, kept, described))

        tracked.expect()
        await self._offer(dead, key, kept, now_ms(), on_delivery, described)

    async def without_unread(
        self, inputs: Sequence[tuple[TrackedInput, Value]]
    ) -> list[tuple[TrackedInput, bytes | None]]:
        """Send a dead letter for each input that was not read whole; return the others."""
        whole: list[tuple[TrackedInput, bytes | None]] = []
        for tracked, value in inputs:
            if isinstance(value, Unread):
                await self.send_dead_letter(tracked, value.kept, value.reason, value.error, value.original)
            else:
                whole.append((tracked, value))
        return whole

    async def resend_cut(self, tracked: TrackedInput, key: bytes, value: bytes, headers: Headers) -> None:
        """Send a dead letter that Kafka refused once more, cut to what every broker takes. It is expected already."""
        kept, described = cut(value, headers, 0)
        await self._offer(self._topics.dead.name, key, kept, now_ms(), tracked.on_delivery, described)

    async def send_status(self, tracked: TrackedInput, key: str, status: Mapping[str, Any]) -> None:
        """Send a record to the status topic."""
        await self._send(tracked, self._topics.status.name, key.encode(), *self._encoded(status))

    def offer_status(self, key: str, status: Mapping[str, Any]) -> None:
        """Send a record to the status topic that nothing waits for, unless the producer's queue is full: another like
        it comes soon."""
        self._producer.offer(self._topics.status.name, key.encode(), *self._encoded(status), _ignore)

    def _encoded(self, status: Mapping[str, Any]) -> tuple[bytes, int]:
        """Return a status record and its time in milliseconds."""
        now = time.time_ns()
        seconds, nanos = divmod(now, 1_000_000_000)
        timestamp = f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{nanos:09d}Z"
        of_worker = {"schema": 1, "timestamp": timestamp, "worker": self._worker, "version": self._version}
        return orjson.dumps({**of_worker, **status}), now // 1_000_000

    async def _send(self, tracked: TrackedInput, topic: str, key: bytes, value: bytes, timestamp_ms: int) -> None:
        tracked.expect()
        await self._offer(topic, key, value, timestamp_ms, tracked.on_delivery)

    async def _offer(
        self, topic: str, key: bytes, value: bytes, timestamp_ms: int, on_delivery: Any, headers: Any = None
    ) -> None:
        await until_queued(partial(self._producer.offer, topic, key, value, timestamp_ms, on_delivery, headers))


def _ignore(_error: Any, _message: Any) -> None:
    """Take the delivery report of a record that nothing waits for. What is wrong with Kafka, others say."""


async def until_queued(offer: Callable[[], bool]) -> None:
    """Call a producer's ``offer`` until it returns True, because its queue has room for the record."""
    while not offer():  # noqa: ASYNC110 - librdkafka has no event for it
        await asyncio.sleep(_FULL_QUEUE_WAIT_S)


def reports_of(topics: Topics, topic: str, value: bytes) -> Reports:
    """Return which method takes the delivery report of a record that is sent to a topic."""
    if topic == topics.flows.name:
        return "on_written"
    if topic == topics.denied.name and orjson.loads(value).get("logged") is False:
        return "on_unlogged"
    return "on_delivery"


def event_time_ms(value: bytes) -> int:
    """Return the Unix time of one of our records in any form, never later than now; now, if it has none.

    librdkafka drops the timestamp of a record that was refused, so a retry reads it back from the record. Of lines, the
    first one counts."""
    now, found = now_ms(), time_ms(value.partition(b"\n")[0])
    return now if found is None else max(0, min(found, now))


def now_ms() -> int:
    """Return the Unix time in milliseconds."""
    return time.time_ns() // 1_000_000
