"""The dead-letter topic: records that no retry will get through."""

from __future__ import annotations

import threading

from confluent_kafka import KafkaError, Producer

from enrich.runtime.process import Exit, StopServiceError
from streams.kafka.connection import RELIABLE_PRODUCER, Connection, silent_logger
from streams.kafka.records import Record


class DeadLetters:
    """Sends permanently refused records to the dead-letter topic, unchanged, with the reason in their headers."""

    def __init__(self, connection: Connection, topic: str, stop: threading.Event) -> None:
        self._topic, self._stop, self._lock = topic, stop, threading.Lock()
        self._producer = Producer({**connection, **RELIABLE_PRODUCER}, logger=silent_logger())

    def send(self, topic: str, record: Record, reason: str, error: str) -> bool:
        """Send a record and wait until Kafka has it. Return False if the service stops before that.

        ``topic`` is where the record was read. ``reason`` is a word for metrics and filters, ``error`` the details.
        Raises StopServiceError if Kafka refuses the dead letter."""
        errors: list[KafkaError | None] = []
        at = {"topic": topic, "partition": str(record.partition), "offset": str(record.offset)}
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
