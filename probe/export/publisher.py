"""Sends the spool's batches to Kafka in order, and retries until the broker has acknowledged each.

Every batch is a Kafka record of its own, and a producer batch of one record, under the key of its ring. So a batch that
Kafka refuses (it is too large, say) takes no other with it: its verdicts are counted as lost, and the next one follows.

While Kafka cannot be reached, the spool keeps the batches, librdkafka retries without end, and a log line says so now
and then. The same holds while Kafka refuses them (``probe.export.refusal``), because a right was taken back, say.
Nothing is sent until the raw topic exists with the right settings: a broker that creates topics automatically would
create it with one partition, and a topic's number of partitions decides permanently which key is where.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

import structlog
from confluent_kafka import KafkaError, KafkaException, Message, Producer

from enrich.runtime.stall import Stall
from enrich.runtime.waiting_time import WaitingTime
from enrich.wire.batch import Header
from enrich.wire.topics import Topic
from probe.export.broker_clock import BrokerClock
from probe.export.delivery_reports import DeliveryReports
from probe.export.in_flight import InFlight
from probe.export.raw_topic import CREATED, MAX_IN_FLIGHT_BYTES, RawTopic, text_of
from probe.export.refusal import BROKEN, FINAL, PURGED, UNAUTHORIZED, Refusal
from probe.export.segment import SpoolPosition
from probe.export.settled import SettledNumbers
from probe.export.spool import Spool
from probe.export.summary import RefusedNumbers

log = structlog.get_logger("kubeweir.probe")

_MAX_IN_FLIGHT_BATCHES: Final = 5
"""An idempotent producer has so many requests under way for a partition, and each of our batches is a request. While
more batches wait, librdkafka's broker thread asks again and again, without a pause, whether it may send the next: with
a frozen broker, that was a whole core."""
_REPORT_S: Final = 10.0
_MEASURE_EVERY_S: Final = 1.0
_BACKOFF_S: Final = 0.5
_MAX_BACKOFF_S: Final = 8.0
_RENEWED: Final = "the credentials were renewed"


class Publisher:
    """One thread that takes batches from the spool and produces them."""

    def __init__(self, spool: Spool, topic: Topic, config: Mapping[str, Any], stall_s: float = 30.0) -> None:
        """``config`` has librdkafka's settings for the connection. ``stall_s``: see :mod:`enrich.runtime.stall`."""
        self._spool, self._topic, self._servers = spool, topic, config["bootstrap.servers"]
        self._max_in_flight_bytes = min(MAX_IN_FLIGHT_BYTES, spool.max_bytes // 4)
        self._raw_topic = RawTopic(topic, config)
        self._producer: Producer | None = None
        """The thread makes it, and tries again while librdkafka makes none: a bad certificate ends nothing."""
        self._refused, self.clock, self.settled = RefusedNumbers(), BrokerClock(), SettledNumbers()
        self._in_flight, self._reports = InFlight(self.settled), DeliveryReports()
        self._reported_at, self._measured_at = 0.0, time.monotonic()
        self._stop = threading.Event()
        self.failed = threading.Event()  # set when the thread died of an unexpected error: the process must then end
        self._setup_problem: str | None = "Kafka has not been reached yet"
        """What keeps the probe from sending anything at all."""
        self.refusal = Refusal()
        """Whether Kafka refuses the batches, although it can be reached."""
        self._broken = ""
        """Why the producer can send nothing more; empty while it can."""
        self._cause = ""
        """The last error of the client, in brackets; it explains a stall, and proves none."""
        self._stall, self._waiting = Stall(stall_s), WaitingTime()
        self._answers = self._answers_seen = 0
        """Batches that Kafka has answered, and as many of them as the last look saw."""
        self.acked_batches = self.acked_bytes = 0
        self.on_acknowledged: Callable[[], None] = lambda: None
        """Called when Kafka has acknowledged a batch."""
        self._thread = threading.Thread(target=self._run, name="publisher")

    @property
    def problem(self) -> str | None:
        """What keeps batches from Kafka, in words; None if nothing does."""
        if self._setup_problem:
            return self._setup_problem
        if self.refusal.problem:
            return f"Kafka refuses batches: {self.refusal.problem}; {self._spool.unacked_batches} wait in the spool"
        if not self._stall.is_stalled:
            return None
        return (
            f"Kafka has acknowledged nothing for {self._stall.seconds:.0f} s at {self._servers}{self._cause}; "
            f"{self._spool.unacked_batches} batches wait in the spool"
        )

    def oldest_unacknowledged_s(self) -> float:
        """Return for how many seconds the oldest batch that Kafka has not acknowledged has been in the spool, 0 if it
        has all. What an earlier process left counts from the start of this one."""
        return self._waiting.look(self._answers + self._spool.unacked_batches, self._answers)

    def start(self) -> None:
        """Start to send."""
        self._thread.start()

    def renew(self, config: Mapping[str, Any]) -> None:
        """Go on with a new producer, by these settings for the connection. Any thread may call it."""
        self._raw_topic = RawTopic(self._topic, config)
        self._broken = _RENEWED

    def stop(self, patience_s: float) -> bool:
        """Send what is in the spool for at most ``patience_s`` seconds, and end. Return whether Kafka has all of it."""
        deadline = time.monotonic() + patience_s
        while not self.failed.is_set() and self._spool.unacked_batches and time.monotonic() < deadline:
            time.sleep(0.02)
        self._stop.set()
        self._thread.join()
        self._end_producer()  # batches without an answer stay in the spool
        return self._spool.unacked_batches == 0

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                try:
                    self._send_until_broken()
                except KafkaException as error:
                    self._on_exception(error.args[0])
        except BaseException:
            log.exception("sending verdicts to Kafka failed")
            self._setup_problem = "sending verdicts to Kafka failed, see the log above"
            self.failed.set()
            raise

    def _on_exception(self, error: KafkaError) -> None:
        if error.code() in UNAUTHORIZED:
            self._refuse(error)
        elif error.fatal():
            self._broken = error.str()
        else:
            # librdkafka makes no client by these settings: a certificate is being replaced on disk, say.
            self._setup_problem, self._broken = f"librdkafka makes no client: {error.str()}", _RENEWED
            self._warn(self._setup_problem)
            self._stop.wait(_BACKOFF_S)

    def _send_until_broken(self) -> None:
        """Send until the probe stops or the producer cannot go on, and replace the producer. Raises KafkaException."""
        producer = self._rebuild() if self._producer is None else self._producer
        self._wait_for_topic()
        while not (self._stop.is_set() or self._broken):
            self._step(producer)
            self._acknowledge()
            self._measure()
        if self._broken:
            if self._broken not in (_RENEWED, self.refusal.problem):
                log.error("the producer cannot go on; replacing it. Its batches are sent again", error=self._broken)
            self._rebuild()
            self._stop.wait(max(_BACKOFF_S, self.refusal.wait_s))
            self.refusal.retry()

    def _wait_for_topic(self) -> None:
        backoff = _BACKOFF_S
        while not (self._stop.is_set() or self._broken or self._topic_is_right()):
            self._update_stall()
            self._stop.wait(backoff)
            backoff = min(2 * backoff, _MAX_BACKOFF_S)

    def _step(self, producer: Producer) -> None:
        """Hand one batch to librdkafka, or wait for acknowledgements if none can be sent now."""
        full = len(self._in_flight) >= _MAX_IN_FLIGHT_BATCHES or self._in_flight.bytes >= self._max_in_flight_bytes
        unsent = None if full else self._spool.next(0 if self._in_flight else 0.05)
        if unsent is None:
            self._reports.poll(producer, 0.02 if self._in_flight else 0)
            return
        position, value, header, unreadable = unsent
        self._in_flight.add(position, len(value), header)
        if header:
            self._produce(producer, position, value, header)
        else:
            if unreadable:
                log.error(
                    "a batch in the spool cannot be decoded: its verdicts are lost, and counted as `refused`",
                    hint="another version wrote it", verdicts=unreadable, segment=position.segment,
                )  # fmt: skip
            self._in_flight.answer(position, refused=unreadable)
        self._reports.poll(producer, 0)

    def _produce(self, producer: Producer, position: SpoolPosition, value: bytes, header: Header) -> None:
        value = self._refused.marked(value, header)

        def on_answer(error: KafkaError | None, _message: Message) -> None:
            self._on_answer(error, position, header)

        while True:
            on_delivery = self._reports.noting(self.clock.measuring(on_answer))
            try:
                producer.produce(self._topic.name, value, header.key, on_delivery=on_delivery)
            except BufferError:
                self._reports.poll(producer, 0.05)
            except KafkaException as error:
                # librdkafka itself refuses a record that is too large.
                self._on_answer(error.args[0], position, header)
                return
            else:
                return

    def _on_answer(self, error: KafkaError | None, position: SpoolPosition, header: Header) -> None:
        if error is None:
            self.refusal.clear()
            self.acked_batches += 1
            self.acked_bytes += self._in_flight.size_of(position)
            self.on_acknowledged()
            self._in_flight.answer(position)
        elif error.code() in FINAL:
            log.error(
                "Kafka refused a batch: its verdicts are lost, and counted as `refused`",
                error=error.str(), verdicts=header.verdicts, bytes=self._in_flight.size_of(position),
                topic=self._topic.name,
            )  # fmt: skip
            self._refused.note(header)
            self._in_flight.answer(position, refused=header.verdicts)
        elif error.code() in BROKEN:
            self._broken = error.str()
        elif error.code() not in PURGED:
            self._refuse(error)

    def _refuse(self, error: KafkaError) -> None:
        self._broken = self._raw_topic.refusal(error)
        if self.refusal.note(self._broken):
            log.error("Kafka refuses batches: they stay in the spool, and are sent again", error=self._broken)

    def _acknowledge(self) -> None:
        """Acknowledge in the spool, once for all answers of a poll, the batches that are answered without a gap."""
        settled = self._in_flight.settle()
        self._answers += settled.batches
        if settled.last is not None:
            self._spool.ack(settled.last, settled.refused)

    def _on_error(self, error: KafkaError) -> None:
        """Take an error of a client, most often of a connection. A fatal one is raised by the producer instead."""
        if error.code() in UNAUTHORIZED:
            self._refuse(error)
            return
        self._cause = f" ({text_of(error)})"
        problem = f"Kafka cannot be reached at {self._servers}{self._cause}; verdicts stay in the spool"
        if self._setup_problem:
            self._setup_problem = problem
        self._warn(problem)

    def _warn(self, problem: str) -> None:
        if time.monotonic() - self._reported_at > _REPORT_S:
            self._reported_at = time.monotonic()
            log.warning(problem, spooled_batches=self._spool.unacked_batches, spooled_bytes=self._spool.size)

    def _topic_is_right(self) -> bool:
        """Return whether the raw topic is as it must be; report what is wrong."""
        try:
            problem = self._raw_topic.problem()
        except KafkaException as error:
            self._on_error(error.args[0])
            return False
        if problem is not None:
            self._setup_problem = problem
            if problem != CREATED:
                self._warn(problem)
            return False
        self._setup_problem = None
        return True

    def _measure(self) -> None:
        """Measure progress, and replace the producer if it makes none although Kafka answers others.

        However long that lasts, the process goes on: it keeps policy in force, which a restart would delay."""
        if time.monotonic() - self._measured_at < min(_MEASURE_EVERY_S, self._stall.limit_s / 5):
            return
        self._measured_at = time.monotonic()
        self._update_stall()
        if self.refusal.problem:
            return  # Kafka answers, and what it answers does not depend on the client
        if self._stall.needs_new_clients(self._raw_topic.is_reachable):
            self._broken = self.problem or "no progress"

    def _update_stall(self) -> None:
        waits, progressed = self.oldest_unacknowledged_s() > 0, self._answers != self._answers_seen
        self._answers_seen = self._answers
        if progressed:
            self._cause = ""
        self._stall.update(waits=waits, progressed=progressed)

    def _rebuild(self) -> Producer:
        """Start over with a new producer, from the first batch that the spool has not acknowledged."""
        self._end_producer()
        self._in_flight.clear()
        self._spool.rewind()
        self._broken = ""  # before the producer is made: it may be renewed at the same time
        self._producer = self._raw_topic.new_producer(self._on_error)
        return self._producer

    def _end_producer(self) -> None:
        """Take back what the producer has not sent, and acknowledge what Kafka has taken."""
        if self._producer is not None:
            self._reports.end(self._producer)
        self._acknowledge()
