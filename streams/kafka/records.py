"""Records that were read."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from confluent_kafka import Consumer, KafkaError, Message

from enrich.runtime.process import Exit, StopServiceError


@dataclass(frozen=True, slots=True)
class Record:
    """One record that was read."""

    partition: int
    offset: int
    key: bytes
    value: bytes
    timestamp_ms: int
    headers: tuple[tuple[str, bytes], ...] = ()
    topic: str = ""


def take(consumer: Consumer, most: int, wait_s: float) -> list[Record]:
    """What waits, at most so many; empty after ``wait_s`` without any. Raises StopServiceError."""
    # consume(n, t) waits for n records or the whole of t: one first, then what is there.
    found = consumer.consume(1, wait_s)
    if found:
        found += consumer.consume(most - 1, 0)
    return good(found)


def good(messages: Iterable[Message]) -> list[Record]:
    """These, without what passes by itself. Raises StopServiceError for what does not."""
    records = []
    for message in messages:
        error = message.error()
        if error is None:
            records.append(_record(message))
        elif error.code() == KafkaError._PARTITION_EOF or error.retriable() or _passing(error):
            continue
        else:
            raise StopServiceError(f"Kafka: {error.str()}", Exit.KAFKA)
    return records


def _passing(error: KafkaError) -> bool:
    return error.code() in {
        KafkaError._TRANSPORT,
        KafkaError._ALL_BROKERS_DOWN,
        KafkaError._TIMED_OUT,
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError._MAX_POLL_EXCEEDED,
    }


def _record(message: Message) -> Record:
    return Record(
        message.partition(),
        message.offset(),
        message.key() or b"",
        message.value() or b"",
        message.timestamp()[1],
        tuple(message.headers() or ()),
        message.topic() or "",
    )
