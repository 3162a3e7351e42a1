"""Whether there is a record from an offset on. Offsets alone do not tell: transactions take some, retention others."""

from __future__ import annotations

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from streams.kafka.connection import Connection, silent_logger
from streams.kafka.records import TopicAndPartition


def has_record(connection: Connection, group: str, place: TopicAndPartition, offset: int, timeout_s: float) -> bool:
    """Return whether a partition has a record from ``offset`` on that a reader would get.

    Raises KafkaException, and TimeoutError if nothing is heard of it."""
    consumer = Consumer(
        {
            # It joins no group, but librdkafka asks for one, and the broker for a right on it, which this one has.
            **connection, "group.id": group, "enable.auto.commit": False,
            "enable.partition.eof": True, "isolation.level": "read_committed", "fetch.wait.max.ms": 100,
            # Retention may have removed everything from there on. Then the oldest record is the next one.
            "auto.offset.reset": "earliest",
        },
        logger=silent_logger(),
    )  # fmt: skip
    try:
        consumer.assign([TopicPartition(*place, offset)])
        message = consumer.poll(timeout_s)
        if message is None:
            raise TimeoutError
        error = message.error()
        if error is not None and error.code() != KafkaError._PARTITION_EOF:
            raise KafkaException(error)
        return error is None
    finally:
        consumer.close()
