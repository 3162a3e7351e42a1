"""What the enricher writes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final, Protocol

import structlog
from confluent_kafka import KafkaError, KafkaException, Producer

from streams.kafka.connection import RELIABLE, Connection, quiet
from streams.kafka.outgoing import Outgoing

log = structlog.get_logger("kubeweir.streams")

_ROUTED_LINGER_MS: Final = 250

_REFUSED: Final = frozenset(
    {
        KafkaError.MSG_SIZE_TOO_LARGE,
        KafkaError.INVALID_MSG,
        KafkaError.INVALID_MSG_SIZE,
        KafkaError.INVALID_TIMESTAMP,
        KafkaError.INVALID_RECORD,
        # What librdkafka says of the neighbours: they are well, and are taken when they come alone.
        KafkaError._INVALID_DIFFERENT_RECORD,
    }
)
"""The record is at fault, not the broker or the rights: trying it again changes nothing."""


def refused(error: KafkaError) -> bool:
    """Whether Kafka will not take this record, whatever is done."""
    return error.code() in _REFUSED


class Delivery(Protocol):
    """A delivery callback: no error, or librdkafka's, and the message."""

    def __call__(self, error: Any, message: Any, /) -> None: ...


class Output:
    """The enricher's producer, and the thread that polls it.

    A second producer sends batches of one record: for those whose batch was refused, perhaps for a neighbour's sake.
    """

    def __init__(self, connection: Connection, on_fatal: Callable[[str], None]) -> None:
        """``on_fatal`` is called on the poll thread, once librdkafka can send no more."""
        self._on_fatal = on_fatal
        config = {
            **connection,
            **RELIABLE,
            # We made the topics: one that is unknown for that long was deleted.
            "topic.metadata.propagation.max.ms": 10_000,
            "error_cb": self._on_error,
        }
        bounded = {"queue.buffering.max.messages": 200_000, "queue.buffering.max.kbytes": 256 << 10}
        self._config = {**config, **bounded, "linger.ms": 5}
        self._many = Producer(self._config, logger=quiet())
        self._routed: dict[str, Producer] = {}
        self._by_topic: dict[str, Producer] = {}
        self._single = Producer({**config, "batch.num.messages": 1, "linger.ms": 0}, logger=quiet())
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._poll, name="kafka-poll", daemon=True)
        self._thread.start()

    def compress(self, topic: str, compression: str) -> None:
        """A topic beside the flows, and how its records are compressed: librdkafka has one way a producer.

        Such topics have few records in many partitions, and a broker is asked once for each batch of each partition:
        ten routes cost it more than the flows do. So their records wait a little longer for their neighbours; no longer
        than :attr:`streams.settings.Settings.in_flight_rows` allows, for their input waits with them."""
        if compression not in self._routed:
            config = {**self._config, "compression.type": compression, "linger.ms": _ROUTED_LINGER_MS}
            self._routed = {**self._routed, compression: Producer(config, logger=quiet())}
        self._by_topic[topic] = self._routed[compression]

    def offer(
        self,
        topic: str,
        key: bytes,
        value: bytes,
        timestamp_ms: int,
        on_delivery: Delivery,
        headers: Sequence[tuple[str, bytes]] | None = None,
    ) -> bool:
        """Queue a record; False: the queue is full, wait and offer it again."""
        return self._put(self._many, topic, key, value, timestamp_ms, on_delivery, headers)

    def offer_all(self, topic: str, outgoing: Outgoing, deliveries: Sequence[Delivery], start: int) -> int:
        """Queue records from ``start`` on, each with its delivery callback, until the queue is full; where to go on.

        The one loop that runs once a record: it calls librdkafka, and nothing of ours.
        """
        produce = self._by_topic.get(topic, self._many).produce
        columns = zip(outgoing.keys, outgoing.values, outgoing.times_ms, deliveries, strict=True)
        for number, (key, value, at, delivered) in enumerate(islice(columns, start, None), start):
            try:
                produce(topic, value, key, on_delivery=delivered, timestamp=at)
            except BufferError:
                return number
            except KafkaException as error:
                delivered(error.args[0], Refused(topic, key, value))
        return len(outgoing.values)

    def offer_alone(
        self, topic: str, key: bytes | None, value: bytes, timestamp_ms: int, on_delivery: Delivery
    ) -> bool:
        """As :meth:`offer`, in a batch of its own."""
        return self._put(self._single, topic, key, value, timestamp_ms, on_delivery, None)

    @staticmethod
    def _put(
        producer: Producer,
        topic: str,
        key: bytes | None,
        value: bytes,
        timestamp_ms: int,
        on_delivery: Delivery,
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
            on_delivery(error.args[0], Refused(topic, key, value))
        return True

    def close(self, patience_s: float) -> int:
        """Send what is queued, for ``patience_s`` at most; how many records are left."""
        left = sum(producer.flush(patience_s) for producer in (self._many, *self._routed.values()))
        left += self._single.flush(0 if patience_s <= 0 else 1)
        self._stop.set()
        self._thread.join()
        for producer in (self._many, *self._routed.values(), self._single):
            producer.purge()
        return int(left)

    def _poll(self) -> None:
        """All of them on one thread: a record that is delivered is counted without a lock."""
        while not self._stop.is_set():
            waiting = [one for one in (*self._routed.values(), self._single) if len(one)]
            self._many.poll(0.01 if waiting else 0.1)
            for producer in waiting:
                producer.poll(0)

    def _on_error(self, error: KafkaError) -> None:
        if error.fatal():
            self._on_fatal(error.str())
        elif error.code() == KafkaError._ALL_BROKERS_DOWN:
            log.warning("Kafka is away; records wait", error=error.str())


@dataclass(frozen=True, slots=True)
class Refused:
    """A record that librdkafka did not even queue, in the shape of its messages."""

    _topic: str
    _key: bytes | None
    _value: bytes

    def topic(self) -> str:
        """Its topic."""
        return self._topic

    def key(self) -> bytes | None:
        """Its key."""
        return self._key

    def value(self) -> bytes:
        """Its value."""
        return self._value
