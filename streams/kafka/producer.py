"""The enricher's producer."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any, Final, Protocol

import structlog
from confluent_kafka import KafkaError, KafkaException, Producer

from streams.kafka.connection import RELIABLE_PRODUCER, Connection, silent_logger
from streams.kafka.record_columns import RecordColumns
from streams.kafka.refused_message import RefusedMessage

log = structlog.get_logger("kubeweir.streams")

_ROUTED_LINGER_MS: Final = 250
MAX_QUEUED_KB: Final = 64 << 10
"""Records that wait for Kafka, in kibibytes; at more, the enricher waits."""
MAX_ROUTED_KB: Final = 20 << 10
"""The same for the topics of routes with one compression."""
MAX_RETRIED_KB: Final = 20 << 10
"""The same for records that are sent alone. More than the largest record, which would never fit otherwise."""


class OnDelivery(Protocol):
    """A delivery callback: ``error`` is None or librdkafka's error, ``message`` librdkafka's message."""

    def __call__(self, error: Any, message: Any, /) -> None: ...


class RecordProducer:
    """Sends records, and runs the thread that polls librdkafka for delivery callbacks.

    It has several of librdkafka's producers: one for nearly everything; one per compression for the topics of routes;
    and one that sends batches of a single record, for records whose batch was refused because of another record.
    """

    def __init__(self, connection: Connection) -> None:
        config = {
            **connection,
            **RELIABLE_PRODUCER,
            # The service created its topics at the start: one that stays unknown for this long was deleted.
            "topic.metadata.propagation.max.ms": 10_000,
            "error_cb": self._on_error,
        }
        bounded = {"queue.buffering.max.messages": 200_000, "queue.buffering.max.kbytes": MAX_QUEUED_KB}
        self._config = {**config, **bounded, "linger.ms": 5}
        self._many = Producer(self._config, logger=silent_logger())
        self._routed: dict[str, Producer] = {}
        self._by_topic: dict[str, Producer] = {}
        alone = {"batch.num.messages": 1, "linger.ms": 0, "queue.buffering.max.kbytes": MAX_RETRIED_KB}
        self._single = Producer({**config, **alone}, logger=silent_logger())
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, on_fatal: Callable[[str], None]) -> None:
        """Start to poll. ``on_fatal`` is called on the poll thread when librdkafka can send nothing more, ever."""
        self._thread = threading.Thread(target=self._poll, args=(on_fatal,), name="kafka-poll", daemon=True)
        self._thread.start()

    def compress(self, topic: str, compression: str) -> None:
        """Choose the compression of a route's topic; in librdkafka, compression is a setting of the producer.

        The topics of routes get few records in many partitions, and each batch of each partition is a request: with
        the linger of the flows, ten routes cost the broker more than the flows do. Their records linger for 250 ms
        instead. ``Settings.in_flight_verdicts`` must allow for that, because their inputs are in flight as long."""
        if compression not in self._routed:
            config = {
                **self._config,
                "compression.type": compression,
                "linger.ms": _ROUTED_LINGER_MS,
                "queue.buffering.max.kbytes": MAX_ROUTED_KB,
            }
            self._routed = {**self._routed, compression: Producer(config, logger=silent_logger())}
        self._by_topic[topic] = self._routed[compression]

    def offer(
        self,
        topic: str,
        key: bytes,
        value: bytes,
        timestamp_ms: int,
        on_delivery: OnDelivery,
        headers: Sequence[tuple[str, bytes]] | None = None,
    ) -> bool:
        """Queue a record. Return False if the queue is full: wait, then offer the record again."""
        return self._put(self._many, topic, key, value, timestamp_ms, on_delivery, headers)

    def offer_all(self, topic: str, records: RecordColumns, callbacks: Sequence[OnDelivery], start: int) -> int:
        """Queue records from index ``start`` on, each with its delivery callback, until the queue is full.

        Return the index to continue at. This is the only loop in the enricher that runs once per record, so it calls
        librdkafka and nothing else.
        """
        produce = self._by_topic.get(topic, self._many).produce
        columns = zip(records.keys, records.values, records.times_ms, callbacks, strict=True)
        for index, (key, value, timestamp_ms, on_delivery) in enumerate(islice(columns, start, None), start):
            try:
                produce(topic, value, key, on_delivery=on_delivery, timestamp=timestamp_ms)
            except BufferError:
                return index
            except KafkaException as error:
                on_delivery(error.args[0], RefusedMessage(topic, key, value, None))
        return len(records.values)

    def offer_alone(
        self, topic: str, key: bytes | None, value: bytes, timestamp_ms: int, on_delivery: OnDelivery
    ) -> bool:
        """Do as :meth:`offer`, but send the record in a batch of its own."""
        return self._put(self._single, topic, key, value, timestamp_ms, on_delivery, None)

    @staticmethod
    def _put(
        producer: Producer,
        topic: str,
        key: bytes | None,
        value: bytes,
        timestamp_ms: int,
        on_delivery: OnDelivery,
        headers: Sequence[tuple[str, bytes]] | None,
    ) -> bool:
        try:
            if headers is None:
                producer.produce(topic, value, key, on_delivery=on_delivery, timestamp=timestamp_ms)
            else:
                producer.produce(
                    topic, value, key, on_delivery=on_delivery, timestamp=timestamp_ms, headers=list(headers)
                )
        except BufferError:
            return False
        except KafkaException as error:
            on_delivery(error.args[0], RefusedMessage(topic, key, value, headers))
        return True

    def drop_queued(self) -> None:
        """Send nothing of what waits for Kafka, except to the topics of routes. Any thread may call it."""
        self._many.purge(in_flight=False, blocking=False)

    def close(self) -> None:
        """End the poll thread, and drop what is still queued."""
        # Not by ``flush``: it may call back after a fatal error, which then makes each call into C raise SystemError.
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        for producer in (self._many, *self._routed.values(), self._single):
            producer.purge()

    def _poll(self, on_fatal: Callable[[str], None]) -> None:
        """Poll all producers on one thread, so that a delivery callback may count without a lock."""
        while not self._stop.is_set():
            busy = [one for one in (*self._routed.values(), self._single) if len(one)]
            try:
                self._many.poll(0.01 if busy else 0.1)
                for producer in busy:
                    producer.poll(0)
            except KafkaException as error:
                # confluent-kafka raises a fatal error here once, and does not hand it to error_cb.
                on_fatal(error.args[0].str())

    def _on_error(self, error: KafkaError) -> None:
        if error.code() == KafkaError._ALL_BROKERS_DOWN:
            log.warning("Kafka cannot be reached; records wait", error=error.str())
