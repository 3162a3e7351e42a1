"""The dead-letter topic: records that no retry will get through."""

from __future__ import annotations

import threading

import structlog
from confluent_kafka import KafkaError, KafkaException, Producer

from enrich.runtime.process import Exit, StopServiceError
from streams.kafka.connection import RELIABLE_PRODUCER, Connection, silent_logger
from streams.kafka.dead_letter_form import MAX_VALUE_BYTES, Headers, cut, headers_of, key_of
from streams.kafka.errors import is_refused, lacks_right, topic_error
from streams.kafka.records import Record
from streams.kafka.send_one import send_one

log = structlog.get_logger("kubeweir.streams")


class NoDeadLettersError(RuntimeError):
    """Kafka takes no dead letters from this service, because a right is missing or a certificate cannot be read. Retry:
    somebody may give the one, or replace the other."""


class DeadLetters:
    """Sends permanently refused records to the dead-letter topic, unchanged, with the reason in their headers."""

    def __init__(self, connection: Connection, topic: str, stop: threading.Event) -> None:
        self._connection, self._topic, self._stop, self._lock = connection, topic, stop, threading.Lock()
        self._producer: Producer | None = self._new_producer()

    def send(self, topic: str, record: Record, reason: str, error: str, output: str = "") -> bool:
        """Send a record and wait until Kafka has it. Return False if the service stops before that.

        ``topic`` is where the record was read. ``reason`` is a word for metrics and filters, ``error`` the details, and
        ``output`` the consumer group of the sink that does not take the record. A record that is too large is cut; one
        that is refused even so is logged, and counts as sent, because otherwise it would stop all that come after it.
        Raises NoDeadLettersError if a retry may help, and StopServiceError if Kafka takes no dead letters for another
        reason."""
        headers = headers_of(topic, record.partition, record.offset, reason, error, record.key, output)
        key = key_of(topic, record.partition, record.offset)
        with self._lock:
            failure: KafkaError | None = None
            for limit in (MAX_VALUE_BYTES, 0):
                answers = self._send(key, *cut(record.value, headers, limit))
                if not answers:
                    return False
                failure = answers[0]
                if failure is None:
                    return True
                if not is_refused(failure):
                    text = topic_error(self._connection, failure, "WRITE", self._topic)
                    if lacks_right(failure):
                        # Without a right to write anything, an idempotent producer can never go on.
                        self._producer = None
                        raise NoDeadLettersError(text)
                    raise StopServiceError(text, Exit.KAFKA)
        log.error("a dead letter is lost: Kafka refuses it even when it is cut", key=key, error=str(failure))
        return True

    def _send(self, key: bytes, value: bytes, headers: Headers) -> list[KafkaError | None]:
        if self._producer is None:
            try:
                self._producer = self._new_producer()
            except KafkaException as error:
                # This raises while a certificate is half written, as it may be when it is renewed.
                raise NoDeadLettersError(error.args[0].str()) from error
        return send_one(self._producer, self._topic, key, value, headers, lambda: not self._stop.is_set())

    def _new_producer(self) -> Producer:
        return Producer({**self._connection, **RELIABLE_PRODUCER}, logger=silent_logger())
