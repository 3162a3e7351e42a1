"""Sends dead letters to the topics that they came from, and notes on the dead-letter topic that this was done."""

from __future__ import annotations

import time
from typing import Final

from confluent_kafka import Producer

from streams.kafka.connection import CALL_TIMEOUT_S, RELIABLE_PRODUCER, Connection, ReadError, silent_logger
from streams.kafka.dead_letter_form import Headers
from streams.kafka.errors import topic_error
from streams.kafka.send_one import send_one


class Resender:
    """Sends one record at a time, and waits until Kafka has it. Raises :class:`ReadError` if it does not take it."""

    def __init__(self, connection: Connection) -> None:
        # A person waits for the answer.
        settings: dict[str, object] = {**connection, **RELIABLE_PRODUCER, "delivery.timeout.ms": _TIMEOUT_MS}
        self._connection = connection
        self._producer = Producer(settings, logger=silent_logger())

    def send(self, topic: str, partition: int, key: bytes | None, value: bytes, headers: Headers) -> None:
        """Send a record to a partition."""
        deadline = time.monotonic() + 2 * CALL_TIMEOUT_S
        answers = send_one(self._producer, topic, key, value, headers, lambda: time.monotonic() < deadline, partition)
        if not answers:
            raise ReadError(f"{topic}: no answer")
        if answers[0] is not None:
            raise ReadError(topic_error(self._connection, answers[0], "WRITE", topic))


_TIMEOUT_MS: Final = int(CALL_TIMEOUT_S * 1000)
