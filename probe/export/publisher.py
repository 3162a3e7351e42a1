"""Sends the spool to Kafka, in order, until the broker has acknowledged every batch; alone imports confluent_kafka.

A batch goes alone, as a producer batch of one record, under its own ring's key: what Kafka refuses for what it is (too
large) is counted lost, takes no neighbour with it, and the rest goes on.

Kafka away: the spool holds, librdkafka tries for ever, a line says so now and then. Nothing is sent before the raw
topic is there and right: a broker that makes topics by itself makes one of a single partition, for good.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Mapping
from typing import Any, Final

import structlog
from confluent_kafka import KafkaError, KafkaException, Message, Producer
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic, ResourceType

from enrich.wire.batch import decode_batch
from enrich.wire.topics import Topic
from probe.export.spool import Spool, SpoolPosition

log = structlog.get_logger("kubeweir.probe")

_IN_FLIGHT_RECORDS: Final = 500
_IN_FLIGHT_BYTES: Final = 32 << 20
"""At most; and no more than a quarter of the spool, which can make no room in what is in flight."""
_LARGEST: Final = 8 << 20
"""As the topic is made; a batch is under 512 kB, unless a single row needs more names than that."""
_REPORT_S: Final = 10.0
_RETRY_S: Final = 0.5
_LONGEST_RETRY_S: Final = 8.0
_REFUSED: Final = frozenset(
    {KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.INVALID_MSG, KafkaError.INVALID_MSG_SIZE, KafkaError.INVALID_RECORD}
)
_PURGED: Final = frozenset({KafkaError._PURGE_QUEUE, KafkaError._PURGE_INFLIGHT})


class Publisher:
    """One thread that reads the spool and produces."""

    def __init__(self, spool: Spool, topic: Topic, config: Mapping[str, Any]) -> None:
        """``config``: librdkafka's settings for the connection."""
        self._spool, self._topic, self._servers = spool, topic, config["bootstrap.servers"]
        self._most_bytes = min(_IN_FLIGHT_BYTES, spool.max_bytes // 4)
        quiet = logging.getLogger("kubeweir.rdkafka")
        quiet.addHandler(logging.NullHandler())
        quiet.propagate = False
        self._admin = AdminClient(dict(config), logger=quiet)
        self._producer = Producer(
            {
                **config,
                "enable.idempotence": True,
                "acks": "all",
                "delivery.timeout.ms": 0,
                "compression.type": "lz4",
                # A batch is large already, and what is refused is refused with its neighbours.
                "linger.ms": 0,
                "batch.num.messages": 1,
                "message.max.bytes": _LARGEST,
                "partitioner": "murmur2_random",
                "queue.buffering.max.kbytes": 2 * _IN_FLIGHT_BYTES >> 10,
                "error_cb": self._on_error,
            },
            logger=quiet,
        )
        self._waiting: dict[SpoolPosition, int] = {}
        """What was taken out of the spool, in order, with its bytes."""
        self._done: dict[SpoolPosition, int] = {}
        """What Kafka has answered, with the rows that it refused."""
        self._flying = 0
        self._reported = 0.0
        self._stop = threading.Event()
        self.failed = threading.Event()
        """Set at an error that trying again does not mend."""
        self.problem: str | None = "Kafka has not been reached yet"
        self.acked_batches = 0
        self.acked_bytes = 0
        self._thread = threading.Thread(target=self._run, name="publisher")

    def start(self) -> None:
        """Begin to send."""
        self._thread.start()

    def stop(self, patience_s: float) -> bool:
        """Send what is in the spool, for ``patience_s`` at most, and end. True: Kafka has all of it."""
        deadline = time.monotonic() + patience_s
        while not self.failed.is_set() and self._spool.unacked_batches and time.monotonic() < deadline:
            time.sleep(0.02)
        self._stop.set()
        self._thread.join()
        self._producer.purge()
        with contextlib.suppress(KafkaException):  # what has no answer now stays in the spool
            self._producer.flush(1)
        self._acknowledge()
        return self._spool.unacked_batches == 0

    def _run(self) -> None:
        try:
            wait = _RETRY_S
            while not self._stop.is_set() and not self._topic_is_right():
                self._stop.wait(wait)
                wait = min(2 * wait, _LONGEST_RETRY_S)
            while not self._stop.is_set():
                self._step()
                self._acknowledge()
        except KafkaException as error:
            self.problem = f"Kafka refuses for good: {error.args[0].str()}"
            self.failed.set()
        except BaseException:
            log.exception("sending failed")
            self.problem = "sending failed, see the log above"
            self.failed.set()
            raise

    def _step(self) -> None:
        """Hand one batch over, or wait for acknowledgements."""
        full = len(self._waiting) >= _IN_FLIGHT_RECORDS or self._flying >= self._most_bytes
        found = None if full else self._spool.next(0 if self._waiting else 0.05)
        if found is None:
            self._producer.poll(0.02 if self._waiting else 0)
            return
        place, value = found
        self._waiting[place] = len(value)
        self._flying += len(value)
        if value:
            self._produce(place, value)
        else:
            self._finish(place)
        self._producer.poll(0)

    def _produce(self, place: SpoolPosition, value: bytes) -> None:
        header = decode_batch(value).header

        def on_answer(error: KafkaError | None, _message: Message) -> None:
            self._on_answer(error, place, header.verdicts)

        while True:
            try:
                self._producer.produce(self._topic.name, value, header.key, on_delivery=on_answer)
            except BufferError:
                self._producer.poll(0.05)
            except KafkaException as error:
                # librdkafka itself looks at the size.
                self._on_answer(error.args[0], place, header.verdicts)
                return
            else:
                return

    def _on_answer(self, error: KafkaError | None, place: SpoolPosition, verdicts: int) -> None:
        if error is None:
            self.acked_batches += 1
            self.acked_bytes += self._waiting[place]
            self.problem = None
            self._finish(place)
        elif error.code() in _REFUSED:
            log.error(
                "Kafka refuses a batch for what it is: its rows are lost, and counted",
                error=error.str(), verdicts=verdicts, bytes=self._waiting[place],
            )  # fmt: skip
            self._finish(place, refused=verdicts)
        elif error.code() not in _PURGED:
            raise KafkaException(error)

    def _finish(self, place: SpoolPosition, refused: int = 0) -> None:
        """Remember an answer: :meth:`_acknowledge` writes, once for all that one poll brought."""
        self._done[place] = refused

    def _acknowledge(self) -> None:
        """Tell the spool what is answered without a gap, in order."""
        last, total = None, 0
        while self._waiting and (first := next(iter(self._waiting))) in self._done:
            last, total = first, total + self._done.pop(first)
            self._flying -= self._waiting.pop(first)
        if last is not None:
            self._spool.ack(last, total)

    def _on_error(self, error: KafkaError) -> None:
        if error.fatal():
            self.problem = error.str()
            self.failed.set()
            return
        self._report(f"Kafka cannot be reached at {self._servers} ({error.str()}); verdicts are kept in the spool")

    def _report(self, problem: str) -> None:
        self.problem = problem
        if time.monotonic() - self._reported > _REPORT_S:
            self._reported = time.monotonic()
            log.warning(problem, spooled_batches=self._spool.unacked_batches, spooled_bytes=self._spool.size)

    def _topic_is_right(self) -> bool:
        try:
            found = self._admin.list_topics(timeout=2).topics.get(self._topic.name)
            if found is None or found.error is not None:
                self._create()
                return False
            resource = ConfigResource(ResourceType.TOPIC, self._topic.name)
            entries = self._admin.describe_configs([resource])[resource].result(5)
        except KafkaException as error:
            self._on_error(error.args[0])
            return False
        config = {name: entry.value for name, entry in entries.items()}
        wrong = self._topic.differences(len(found.partitions), config)
        if wrong:
            self._report(f"topic {self._topic.name} is not as it must be: {'; '.join(wrong)}. Make it anew")
            return False
        self.problem = None
        return True

    def _create(self) -> None:
        new = NewTopic(self._topic.name, self._topic.partitions, config=dict(self._topic.config))
        try:
            self._admin.create_topics([new])[self._topic.name].result(10)
            log.info("topic made", topic=self._topic.name, partitions=self._topic.partitions)
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                self._report(f"topic {self._topic.name} cannot be made: {error.args[0].str()}")


class AddressIntervalPublisher:
    """Sends the last word on each pod's hold of an address; a newer one takes the place of one that still waits."""

    def __init__(self, topic: Topic, config: Mapping[str, Any]) -> None:
        """``config``: librdkafka's settings for the connection."""
        self._topic = topic
        self._admin = AdminClient(dict(config), logger=logging.getLogger("kubeweir.rdkafka"))
        self._producer = Producer(
            {
                **config, "enable.idempotence": True, "acks": "all", "delivery.timeout.ms": 0,
                "compression.type": "lz4", "linger.ms": 5, "partitioner": "murmur2_random",
            },
            logger=logging.getLogger("kubeweir.rdkafka"),
        )  # fmt: skip
        self._waiting: dict[bytes, bytes | None] = {}
        self._some = threading.Condition()
        self._stop = threading.Event()
        self.published = 0
        """Records that Kafka has."""
        self.problem: str | None = None
        self._thread = threading.Thread(target=self._run, name="endpoints", daemon=True)
        self._thread.start()

    def publish(self, changes: Mapping[bytes, bytes | None]) -> None:
        """Send these soon (any thread)."""
        with self._some:
            self._waiting |= changes
            self._some.notify()

    def stop(self, patience_s: float) -> None:
        """Send what waits, for ``patience_s`` at most. The next probe tells again what was not taken."""
        deadline = time.monotonic() + patience_s
        while self._waiting and time.monotonic() < deadline:
            time.sleep(0.02)
        self._stop.set()
        with self._some:
            self._some.notify()
        self._thread.join(2 * _RETRY_S + 5)
        self._producer.flush(max(0.0, deadline - time.monotonic()))

    def _run(self) -> None:
        ready = False
        while not self._stop.is_set():
            with self._some:
                self._some.wait_for(lambda: self._waiting or self._stop.is_set(), 0.5)
                batch, self._waiting = self._waiting, {}
            try:
                ready = ready or not batch or self._make_topic()
            except KafkaException as error:
                self.problem = f"{self._topic.name}: {error.args[0].str()}"
            if not ready or not self._send(batch):
                with self._some:
                    self._waiting = {**batch, **self._waiting}
                self._stop.wait(_RETRY_S)
            self._producer.poll(0)

    def _make_topic(self) -> bool:
        """Whether the topic is there: a broker that makes one by itself makes one that forgets."""
        found = self._admin.list_topics(timeout=2).topics.get(self._topic.name)
        if found is None or found.error is not None:
            new = NewTopic(self._topic.name, self._topic.partitions, config=dict(self._topic.config))
            self._admin.create_topics([new])[self._topic.name].result(10)
        return True

    def _send(self, batch: Mapping[bytes, bytes | None]) -> bool:
        try:
            for key, value in batch.items():
                self._producer.produce(self._topic.name, value, key, on_delivery=self._on_answer)
        except (BufferError, KafkaException) as error:
            self.problem = f"{self._topic.name}: {error}"
            return False
        return True

    def _on_answer(self, error: KafkaError | None, message: Message) -> None:
        if error is None:
            self.published += 1
            self.problem = None
        elif error.code() != KafkaError._PURGE_QUEUE:
            self.problem = f"{self._topic.name}: {error.str()}"
            log.error("Kafka refuses to remember who had an address", error=error.str(), key=str(message.key()))
