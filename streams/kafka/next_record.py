"""Finds out whether there is a record from an offset on. Offsets alone do not say: some belong to the ends of
transactions, and retention removes others."""

from __future__ import annotations

from confluent_kafka import KafkaError, KafkaException, TopicPartition

from streams.kafka.connection import Connection, make_consumer
from streams.kafka.hanging_calls import close_consumer
from streams.kafka.records import TopicAndPartition, is_unreadable


def has_record(connection: Connection, group: str, place: TopicAndPartition, offset: int, timeout_s: float) -> bool:
    """Return whether a partition has a record from ``offset`` on that a reader would get.

    Raises KafkaException, and TimeoutError if nothing is heard of it."""
    # It joins no group, but librdkafka asks for one, and the broker for a right on it, which this one has.
    consumer = make_consumer(
        connection,
        group,
        {"enable.partition.eof": True, "isolation.level": "read_committed", "fetch.wait.max.ms": 100},
    )
    try:
        consumer.assign([TopicPartition(*place, offset)])
        message = consumer.poll(timeout_s)
        if message is None:
            raise TimeoutError
        error = message.error()
        if error is not None and error.code() != KafkaError._PARTITION_EOF and not is_unreadable(error):
            raise KafkaException(error)
        return error is None or is_unreadable(error)
    finally:
        close_consumer(consumer)
