"""The Faust application that enriches. It acknowledges a raw batch only when Kafka has every record made from it.

Faust as shipped acknowledges an event even if the agent failed, and commits before its own producer has sent. So this
application uses Faust for the consumer, the group and the commits only:

1. The agent hands each event to :mod:`streams.worker.intake` and does nothing else. No exception may leave the agent,
   because Faust would count the event as done.
2. A task takes what waits there through the :class:`~streams.worker.pipeline.Pipeline`, which sends the records with a
   producer of its own.
3. :mod:`streams.worker.inflight` decides when an event may be acknowledged, and bounds what is in flight.
4. Another task releases pending verdicts.

5. Before Faust commits, :mod:`streams.worker.checkpoints` notes which verdicts are finished.

:mod:`streams.worker.refusals` says what happens to a record that Kafka refuses.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import faust
import structlog

from enrich.runtime.dead_threads import dead_thread
from enrich.runtime.process import Exit
from streams.kafka.producer import RecordProducer
from streams.kafka.records import TopicAndPartition
from streams.metrics.roles import EnrichMetrics
from streams.settings import Settings
from streams.worker.bounded_app import MAX_PARTITION_FETCH, bound
from streams.worker.bounded_fetch import is_empty, unread
from streams.worker.checkpoints import Checkpoints
from streams.worker.credentials import kafka_credentials
from streams.worker.enrich_app import EnrichApp, StoppableWorker
from streams.worker.group_errors import join_again
from streams.worker.inflight import InFlightTracker, TrackedInput
from streams.worker.intake import Intake, QueuedInput
from streams.worker.missing_rights import MissingRights
from streams.worker.pairs import Pairs
from streams.worker.pipeline import Pipeline
from streams.worker.refusals import Refusals
from streams.worker.takeover import Takeover

log = structlog.get_logger("kubeweir.streams")

_LAG_EVERY_S: Final = 1.0
_RELEASE_EVERY_S: Final = 0.02


class EnrichWorker:
    """The worker: Faust application, intake, in-flight tracker and pipeline, on one event loop."""

    def __init__(
        self,
        settings: Settings,
        pipeline: Pipeline,
        producer: RecordProducer,
        metrics: EnrichMetrics,
        stop: threading.Event,
        begin_again: Callable[[], None],
    ) -> None:
        """``begin_again`` is called on the event loop when a right that was missing has been given."""
        self._settings, self._pipeline, self._producer, self._metrics = settings, pipeline, producer, metrics
        self._stop, self._ended = stop, threading.Event()
        self._loop = asyncio.new_event_loop()
        asyncio.set_event_loop(self._loop)
        self._rights = MissingRights(settings, producer, self._loop, stop, begin_again)
        self.refusals = Refusals(settings, pipeline, producer, metrics, self._loop, self._rights.on_refused)
        in_flight = settings.in_flight_verdicts, settings.in_flight_bytes
        self._tracker = InFlightTracker(*in_flight, self._loop.call_soon_threadsafe, self.refusals.on_error)
        self._intake = Intake(self._tracker, metrics, self._on_finished, unread)
        self._pairs = self._make_pairs()
        self._takeover = Takeover(pipeline, Checkpoints(settings, producer), self._intake.committed)
        self._topic = settings.topics.raw.name
        self.partitions: set[TopicAndPartition] | None = None
        """The partitions that this worker reads; None before it joined its group."""
        self.on_group_error: Callable[[], None] = lambda: None
        """Called when Kafka refuses the worker something about its group (any thread)."""
        self._group_error: str | None = None
        self._app = self._build()

    def problem(self) -> str | None:
        """Return what keeps the worker from making progress, or None."""
        missing = self._rights.problem()
        if missing:
            return missing
        if self._group_error:
            return f"Kafka refuses this worker as a member of its group: {self._group_error}"
        if self.partitions is None:
            return "no partitions of the raw topic have been assigned yet"
        overdue = time.monotonic() - self._intake.last_ack
        if len(self._tracker) and overdue > self._settings.stall:
            return f"Kafka has acknowledged nothing for {overdue:.0f} s"
        return None

    def has_record(self, place: TopicAndPartition, start: int, end: int) -> bool:
        """Return whether there may be a record between two offsets: the client has not read so far, or found one."""
        return not is_empty(*place, start, end)

    def run(self) -> None:
        """Run until SIGTERM or SIGINT."""
        worker = StoppableWorker(
            self._app, self._stop, loop=self._loop, quiet=True, override_logging=False, redirect_stdouts=False
        )
        threading.Thread(target=self._watch_stop, args=(worker,), name="stop-watch", daemon=True).start()
        try:
            self._loop.run_until_complete(worker.start())
        except asyncio.CancelledError:
            log.debug("stopped while starting")
        finally:
            self._stop.set()
            worker.stop_and_shutdown()
            self._ended.set()

    def fatal(self, error: str) -> None:
        """Wait for a right or exit, because Kafka will acknowledge nothing more (any thread)."""
        self._rights.on_refused(error)

    def _on_group_error(self, error: str) -> None:
        if error != self._group_error:
            log.error("Kafka refuses this worker as a member of its group; trying again", error=error)
        self._group_error = error
        self.on_group_error()

    def _make_pairs(self) -> Pairs | None:
        if not self._settings.pairs:
            return None
        pairs = self._pipeline.pairs = Pairs(self._settings, self._metrics.pairs, self._pipeline.report)
        return pairs

    def notes(self) -> list[str]:
        """Return lines about what does not keep the worker from making progress."""
        return [self._pairs.problem] if self._pairs is not None and self._pairs.problem else []

    def _build(self) -> faust.App:
        settings = self._settings
        app = EnrichApp(
            settings.group("enrich"),
            loop=self._loop,
            broker=[f"kafka://{server.strip()}" for server in settings.kafka.split(",")],
            broker_credentials=kafka_credentials(settings),
            store="memory://",
            web_enabled=False,
            topic_disable_leader=True,
            topic_allow_declare=False,
            table_standby_replicas=0,
            key_serializer="raw",
            value_serializer="raw",
            consumer_auto_offset_reset="earliest",
            consumer_max_fetch_size=MAX_PARTITION_FETCH,
            consumer_metadata_max_age_ms=30_000,
            broker_max_poll_records=200,
            broker_commit_interval=1.0,
            stream_buffer_maxsize=128,
            stream_wait_empty=True,
            # Faust requires more than the rebalance timeout: a request may wait for a rebalance to end.
            broker_request_timeout=90.0,
            broker_rebalance_timeout=60.0,
            broker_session_timeout=10.0,
            worker_redirect_stdouts=False,
        )
        app.before_commit, app.earlier_starts = self._before_commit, self._earlier_starts
        app.after_commit = self._pairs.on_commit if self._pairs is not None else lambda: None
        topic = app.topic(self._topic, key_serializer="raw", value_serializer="raw")
        app.agent(topic, name="enrich", concurrency=1)(self._read)
        bound(app, settings.in_flight_bytes)
        join_again(self._on_group_error)
        for work in (self._enrich, self._release, self._measure):
            app.task(_ending_the_process(work))
        if self._pairs is not None:
            app.task(_ending_the_process(self._pairs.run))
            app.on_before_shutdown.connect(self._before_shutdown)
        app.on_partitions_assigned.connect(self._on_assigned)
        app.on_partitions_revoked.connect(self._on_revoked)
        return app

    async def _read(self, stream: Any) -> None:
        # There is no public way to the committed offsets that Faust keeps.
        committed = self._app.consumer._committed_offset
        async for event in stream.noack().events():
            await self._intake.put(event, committed.get(event.message.tp))

    async def _enrich(self) -> None:
        while True:
            taken = self._without_replayed(await self._intake.take())
            if not taken:
                await asyncio.sleep(0)
                continue
            await self._rights.may_send.wait()
            await self._takeover.take_over([tracked for tracked, _, _ in taken], self.partitions or ())
            for tracked, _, expired in taken:
                if expired:
                    await self._pipeline.report_expired(tracked, expired)
            await self._pipeline.take([(tracked, value) for tracked, value, _ in taken])
            # Let Faust run: it keeps reading while this task is busy.
            await asyncio.sleep(0)

    def _without_replayed(self, taken: list[QueuedInput]) -> list[QueuedInput]:
        """Count the pairs of inputs that were enriched already; return the others."""
        if self._pairs is None:
            return taken
        self._pairs.take([queued.tracked for queued in taken])
        others = []
        for queued in taken:
            if self._pairs.is_replayed(queued.tracked):
                self._pipeline.count_only(queued.tracked, queued.value)
            else:
                others.append(queued)
        return others

    async def _earlier_starts(self, committed: Mapping[Any, int | None]) -> Mapping[Any, int]:
        if self._pairs is None:
            return {}
        own = {tp: committed.get(tp) for tp in self._app.consumer.assignment() if tp.topic == self._topic}
        starts = await self._pairs.starts({tp.partition: offset for tp, offset in own.items()})
        return {tp: starts[tp.partition] for tp in own if tp.partition in starts}

    async def _before_shutdown(self, _app: Any, **_: Any) -> None:
        if self._pairs is not None:
            await self._pairs.release_all()

    def _on_finished(self, tracked: TrackedInput) -> None:
        self._pipeline.finish(tracked)

    async def _before_commit(self, offsets: Mapping[Any, int]) -> Mapping[Any, int]:
        written = await self._takeover.checkpoint({tp.partition: offset for tp, offset in offsets.items()})
        return {tp: offset for tp, offset in offsets.items() if tp.partition in written}

    async def _release(self) -> None:
        while True:
            await self._rights.may_send.wait()
            await self._pipeline.release()
            await asyncio.sleep(_RELEASE_EVERY_S)

    async def _measure(self) -> None:
        while True:
            self._metrics.in_flight_verdicts.set(self._tracker.verdicts)
            self._metrics.in_flight_bytes.set(self._tracker.bytes)
            for tp in self._app.consumer.assignment() if self.partitions else ():
                end, done = self._app.consumer.highwater(tp), self._intake.acked.get(tp.partition)
                if done is not None and end:
                    self._metrics.lag.labels(tp.partition).set(max(0, end - done))
            await asyncio.sleep(_LAG_EVERY_S)

    async def _on_assigned(self, _app: Any, assigned: Any, **_: Any) -> None:
        self.partitions, self._group_error = {(tp.topic, tp.partition) for tp in assigned}, None
        log.info("partitions assigned", topic=self._topic, partitions=sorted(tp.partition for tp in assigned))

    async def _on_revoked(self, _app: Any, revoked: Any, **_: Any) -> None:
        partitions = [tp.partition for tp in revoked]
        if self.partitions is not None:  # aiokafka calls this also before it joins the group for the first time
            self.partitions = self.partitions - {(tp.topic, tp.partition) for tp in revoked}
        if self._pairs is not None:
            await self._pairs.release(partitions)
        self._takeover.forget(partitions)
        self._intake.forget(partitions)
        self._tracker.forget(partitions)
        self._pipeline.forget(partitions)
        for partition in partitions:
            self._metrics.lag.remove(partition)  # the partition's next owner reports it

    def _watch_stop(self, worker: StoppableWorker) -> None:
        """Stop Faust when the process wants to stop. Exit when that takes too long: without Kafka, Faust would wait for
        acknowledgements for ever."""
        self._stop.wait()
        if worker.can_stop.wait(1.0):  # else it stops when it starts
            with contextlib.suppress(RuntimeError):  # the loop is closed already
                self._loop.call_soon_threadsafe(worker.shut_down)
        if self._ended.wait(self._settings.stop_timeout):
            return
        log.warning(
            "stopped waiting for Kafka; batches that are not acknowledged will be read again",
            in_flight=len(self._tracker),
        )
        os._exit(Exit.UNEXPECTED if dead_thread() else Exit.OK)


def _ending_the_process(work: Callable[[], Awaitable[None]]) -> Callable[[], Awaitable[None]]:
    """Return a task that ends the process at an unexpected error: without it, the process would only look healthy."""

    async def run() -> None:
        try:
            await work()
        except Exception:
            log.exception("a task of the enricher failed; stopping. Batches in flight will be read again")
            os._exit(Exit.UNEXPECTED)

    return run
