"""Passes over a batch that librdkafka cannot read, because it inflates to more than the client's bound or is damaged.

Theory of operation. librdkafka reports such a batch by its first offset, and asks the broker for it again, for ever. It
does not say where the batch ends. Say the batch has the records 100 to 399:

1. A second consumer reads from 101, 102, 104, 108, ... While the answer is that the batch of offset 100 cannot be read,
   the offset is inside that batch. From 612 it gets another record, or the end of the partition.
2. Between 356 and 612 it halves, and finds 400.
3. The first consumer goes on at 400. Its caller gets one record without a value, of offset 399, that says why.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import structlog
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from streams.kafka.connection import CALL_TIMEOUT_S, Connection, make_consumer
from streams.kafka.hanging_calls import close_consumer
from streams.kafka.records import Record, TopicAndPartition, is_unreadable

log = structlog.get_logger("kubeweir.streams")


@dataclass(slots=True)
class Unreadable:
    """Passes over unreadable batches for one consumer."""

    connection: Connection
    group: str
    settings: Mapping[str, object] = field(default_factory=dict)
    _last: dict[TopicAndPartition, tuple[int, int]] = field(default_factory=dict)
    """The last batch of each partition that was passed over: its first offset, and the one after it."""

    def pass_over(self, consumer: Consumer, message: Message) -> Record | None:
        """Let the consumer go on after the batch. Return a record that stands for it; None if Kafka does not answer
        now: then librdkafka reports it again."""
        topic, partition, first = message.topic() or "", message.partition() or 0, message.offset() or 0
        known, end = self._last.get((topic, partition), (-1, 0))
        try:
            if first != known:
                end = self._end(topic, partition, first)
            consumer.seek(TopicPartition(topic, partition, end))
        except KafkaException as error:
            log.warning("a batch that cannot be read was not passed over; retrying", topic=topic, partition=partition,
                        offset=first, error=error.args[0].str())  # fmt: skip
            return None
        self._last[topic, partition] = (first, end)
        found = message.error()
        why = f"the batch of records {first} to {end - 1} was not read: {found.str() if found else ''}"
        log.error("a batch cannot be read, and is passed over", topic=topic, partition=partition, error=why)
        return Record(partition, end - 1, b"", b"", message.timestamp()[1], (), topic, why)

    def _end(self, topic: str, partition: int, first: int) -> int:
        """Return the offset after the batch. Raises KafkaException."""
        settings = {
            **self.settings,
            "enable.partition.eof": True,
            # Else an offset after the end would mean the oldest one, and the batch may stand there.
            "auto.offset.reset": "error",
            "fetch.wait.max.ms": 100,
            "fetch.error.backoff.ms": 10,
        }
        probe = make_consumer(self.connection, self.group, settings)
        try:
            inside, step = first, 1
            while self._is_inside(probe, topic, partition, first, first + step):
                inside, step = first + step, step * 2
            end = first + step
            while inside + 1 < end:
                middle = (inside + end) // 2
                if self._is_inside(probe, topic, partition, first, middle):
                    inside = middle
                else:
                    end = middle
            return end
        finally:
            close_consumer(probe)

    @staticmethod
    def _is_inside(probe: Consumer, topic: str, partition: int, first: int, offset: int) -> bool:
        """Return whether the offset belongs to the batch that begins with ``first``. Raises KafkaException."""
        probe.assign([TopicPartition(topic, partition, offset)])
        deadline = time.monotonic() + CALL_TIMEOUT_S
        while time.monotonic() < deadline:
            message = probe.poll(0.5)
            if message is None:
                continue
            error = message.error()
            if error is None or error.code() in {KafkaError._PARTITION_EOF, KafkaError._AUTO_OFFSET_RESET}:
                return False
            if is_unreadable(error):
                return bool(message.offset() == first)
            if not error.retriable() and error.code() != KafkaError._TRANSPORT:
                raise KafkaException(error)
        raise KafkaException(KafkaError(KafkaError._TIMED_OUT))
