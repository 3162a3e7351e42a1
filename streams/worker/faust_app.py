"""The Faust application that enriches: raw batches in, acknowledged only when Kafka has every record made of them.

Faust as shipped acknowledges what failed, so nothing of its output is used here: the agent only hands events on to
:mod:`streams.worker.intake`, a second task takes what waits there, and :mod:`streams.worker.inflight` says when an
event may be
acknowledged. The agent's body lets no exception out, for Faust would count its event as done.
"""

from __future__ import annotations

import asyncio
import os
import signal
import ssl
import threading
import time
from functools import partial
from typing import Any, Final

import faust
import structlog

from enrich.runtime.process import Exit
from streams.kafka.producer import RecordProducer, is_refused
from streams.metrics.roles import EnrichMetrics
from streams.settings import Settings
from streams.worker.inflight import InFlightTracker, TrackedInput
from streams.worker.intake import Intake
from streams.worker.pipeline import Pipeline, event_time_ms

log = structlog.get_logger("kubeweir.streams")

_LAG_EVERY_S: Final = 1.0
_RELEASE_EVERY_S: Final = 0.02
_SILENT_S: Final = 15.0


class EnrichApp(faust.App):  # type: ignore[misc]  # Faust is read as untyped
    """A Faust app that keeps nothing on disk."""

    def _create_directories(self) -> None:
        """Faust would make them in the working directory; there are no tables to put there."""


class _Worker(faust.Worker):  # type: ignore[misc]  # as above
    """A Faust worker whose stop also counts when it was asked for before Faust could hear it."""

    def __init__(self, app: faust.App, stop: threading.Event, **options: Any) -> None:
        super().__init__(app, **options)
        self._stop_asked = stop
        self.spinner = None

    def install_signal_handlers(self) -> None:
        super().install_signal_handlers()
        if self._stop_asked.is_set():
            self._schedule_shutdown(signal.SIGTERM)

    def _schedule_shutdown(self, number: signal.Signals) -> None:
        self._stop_asked.set()
        super()._schedule_shutdown(number)


class EnrichWorker:
    """The worker: Faust app, intake, ledger and pipeline put together on one event loop."""

    def __init__(
        self,
        settings: Settings,
        pipeline: Pipeline,
        output: RecordProducer,
        metrics: EnrichMetrics,
        stop: threading.Event,
    ) -> None:
        self._settings, self._pipeline, self._output, self._metrics = settings, pipeline, output, metrics
        self._stop = stop
        self._loop = asyncio.new_event_loop()
        asyncio.set_event_loop(self._loop)
        self._ledger = InFlightTracker(
            settings.in_flight_verdicts, settings.in_flight_bytes, self._loop.call_soon_threadsafe, self._on_error
        )
        self._intake = Intake(self._ledger, metrics)
        self._retries: set[asyncio.Task[None]] = set()
        self._topic = settings.topics.raw.name
        self._assigned = False
        self._app = self._build()

    def problem(self) -> str | None:
        """What keeps it from reading, in words."""
        if not self._assigned:
            return "no partitions of the raw topic have been assigned yet"
        silent = time.monotonic() - self._intake.last_ack
        if len(self._ledger) and silent > _SILENT_S:
            return f"Kafka has acknowledged nothing for {silent:.0f} s"
        return None

    def run(self) -> None:
        """Work until SIGTERM or SIGINT."""
        worker = _Worker(
            self._app, self._stop, loop=self._loop, quiet=True, override_logging=False, redirect_stdouts=False
        )
        watch = threading.Thread(target=self._watch_stop, name="stop-watch", daemon=True)
        watch.start()
        try:
            self._loop.run_until_complete(worker.start())
        except asyncio.CancelledError:
            log.debug("stopped while starting")
        finally:
            self._stop.set()
            worker.stop_and_shutdown()

    def fatal(self, error: str) -> None:
        """Kafka can take no more: end, without the wait for acknowledgements that will not come (any thread)."""
        log.error("Kafka refuses for good; stopping, what is not acknowledged will be read again", error=error)
        os._exit(Exit.KAFKA)

    def _build(self) -> faust.App:
        settings = self._settings
        app = EnrichApp(
            f"{settings.prefix}.enrich",
            loop=self._loop,
            broker=[f"kafka://{server.strip()}" for server in settings.kafka.split(",")],
            broker_credentials=credentials(settings),
            store="memory://",
            web_enabled=False,
            topic_disable_leader=True,
            topic_allow_declare=False,
            table_standby_replicas=0,
            key_serializer="raw",
            value_serializer="raw",
            consumer_auto_offset_reset="earliest",
            consumer_max_fetch_size=4 << 20,
            broker_max_poll_records=200,
            broker_commit_interval=1.0,
            stream_buffer_maxsize=128,
            stream_wait_empty=True,
            # Faust asks for it: a request may wait as long as a rebalance.
            broker_request_timeout=90.0,
            broker_rebalance_timeout=60.0,
            broker_session_timeout=10.0,
            worker_redirect_stdouts=False,
        )
        topic = app.topic(self._topic, key_serializer="raw", value_serializer="raw")
        app.agent(topic, name="enrich", concurrency=1)(self._read)
        app.task(self._enrich)
        app.task(self._release)
        app.task(self._measure)
        app.on_partitions_assigned.connect(self._on_assigned)
        app.on_partitions_revoked.connect(self._on_revoked)
        return app

    async def _read(self, stream: Any) -> None:
        # Faust keeps the committed offset of each partition, and gives no other way to it.
        committed = self._app.consumer._committed_offset
        async for event in stream.noack().events():
            await self._intake.put(event, committed.get(event.message.tp))

    async def _enrich(self) -> None:
        while True:
            taken = await self._intake.take()
            for tracked, _, expired in taken:
                if expired:
                    await self._pipeline.expired(tracked, expired)
            await self._pipeline.take([(tracked, value) for tracked, value, _ in taken])
            # A turn for Faust: reading goes on while this works.
            await asyncio.sleep(0)

    async def _release(self) -> None:
        while True:
            await self._pipeline.release()
            await asyncio.sleep(_RELEASE_EVERY_S)

    async def _measure(self) -> None:
        while True:
            self._metrics.in_flight_verdicts.set(self._ledger.verdicts)
            self._metrics.in_flight_bytes.set(self._ledger.bytes)
            for tp in self._app.consumer.assignment() if self._assigned else ():
                end, done = self._app.consumer.highwater(tp), self._intake.acked.get(tp.partition)
                if done is not None and end:
                    self._metrics.lag.labels(tp.partition).set(max(0, end - done))
            await asyncio.sleep(_LAG_EVERY_S)

    async def _on_assigned(self, _app: Any, assigned: Any, **_: Any) -> None:
        self._assigned = True
        log.info("partitions assigned", topic=self._topic, partitions=sorted(tp.partition for tp in assigned))

    async def _on_revoked(self, _app: Any, revoked: Any, **_: Any) -> None:
        partitions = [tp.partition for tp in revoked]
        self._intake.forget(partitions)
        self._ledger.forget(partitions)
        self._pipeline.forget(partitions)
        for partition in partitions:
            # Another worker tells it now.
            self._metrics.lag.remove(partition)

    def _on_error(self, tracked: TrackedInput, error: Any, message: Any) -> None:
        """A record that was not taken (poll thread)."""
        if not is_refused(error) or message.topic() == self._settings.topics.dead.name:
            self.fatal(f"{message.topic()}: {error.str()}")
        self._loop.call_soon_threadsafe(self._later, self._retry, tracked, message, error)

    def _on_alone(self, tracked: TrackedInput, error: Any, message: Any) -> None:
        """The answer for a record that was sent alone (poll thread)."""
        if error is None:
            tracked.on_delivery(None, message)
        elif is_refused(error):
            self._loop.call_soon_threadsafe(self._later, self._bury, tracked, message, error)
        else:
            self.fatal(f"{message.topic()}: {error.str()}")

    def _later(self, step: Any, *arguments: Any) -> None:
        task = self._loop.create_task(step(*arguments))
        self._retries.add(task)
        task.add_done_callback(self._retries.discard)

    async def _retry(self, tracked: TrackedInput, message: Any, _error: Any) -> None:
        """Alone: a broker refuses a batch whole, for one record of it."""
        self._metrics.retried.inc()
        answer = partial(self._on_alone, tracked)
        topic, at = message.topic(), event_time_ms(message.value())
        while not self._output.offer_alone(topic, message.key(), message.value(), at, answer):  # noqa: ASYNC110 - librdkafka's queue tells nobody of room
            await asyncio.sleep(0.01)

    async def _bury(self, tracked: TrackedInput, message: Any, error: Any) -> None:
        await self._pipeline.bury_refused(tracked, message.topic(), message.value(), error.str())

    def _watch_stop(self) -> None:
        """Kafka may be away when we are to stop: then waiting for its acknowledgements would never end."""
        self._stop.wait()
        ended = threading.Event()
        ended.wait(self._settings.stop_timeout)
        log.warning(
            "stopping without Kafka's answer; what is not acknowledged will be read again", held=len(self._ledger)
        )
        os._exit(Exit.OK)


def credentials(settings: Settings) -> faust.SASLCredentials | faust.SSLCredentials | None:
    """Faust's form of the connection's settings, which it hands to aiokafka."""
    context = _tls(settings) if settings.uses_tls else None
    if settings.uses_sasl:
        return faust.SASLCredentials(
            username=settings.kafka_username, password=settings.kafka_password, ssl_context=context,
            mechanism=settings.kafka_mechanism,
        )  # fmt: skip
    return faust.SSLCredentials(context) if context else None


def _tls(settings: Settings) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=settings.kafka_ca)
    if settings.kafka_certificate is not None:
        context.load_cert_chain(settings.kafka_certificate, settings.kafka_key)
    return context
