"""What a far end refuses for good."""

from __future__ import annotations

import threading

from confluent_kafka import KafkaError, Producer

from enrich.runtime.process import Exit, StopServiceError
from streams.kafka.connection import RELIABLE, Connection, quiet
from streams.kafka.records import Record


class DeadLetters:
    """Sends what a far end refuses for good to the dead-letter topic, as it came."""

    def __init__(self, connection: Connection, topic: str, stop: threading.Event) -> None:
        self._topic, self._stop, self._lock = topic, stop, threading.Lock()
        self._producer = Producer({**connection, **RELIABLE}, logger=quiet())

    def send(self, source: str, record: Record, reason: str, error: str) -> bool:
        """Returns when Kafka has it; False: stopped before. ``source``: the topic that it came from.

        Raises StopServiceError if Kafka will not have it."""
        errors: list[KafkaError | None] = []
        at = {"topic": source, "partition": str(record.partition), "offset": str(record.offset)}
        headers = {"reason": reason, **at, "error": error}
        with self._lock:
            self._producer.produce(
                self._topic,
                record.value,
                "/".join(at.values()).encode(),
                headers=[(name, text.encode()) for name, text in headers.items()],
                on_delivery=lambda error, _message: errors.append(error),
            )
            while not errors and not self._stop.is_set():
                self._producer.poll(0.2)
        if errors and errors[0] is not None:
            raise StopServiceError(f"{self._topic}: {errors[0].str()}", Exit.KAFKA)
        return bool(errors)
