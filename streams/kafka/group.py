"""A topic read as a member of a group, for what is sent on."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import structlog
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from streams.kafka.connection import Connection, quiet
from streams.kafka.records import Record, take

log = structlog.get_logger("kubeweir.streams")


class GroupReader:
    """Reads a topic as a member of a group, and commits when it is told to."""

    def __init__(
        self,
        connection: Connection,
        group: str,
        topic: str,
        on_owned: Callable[[Sequence[int]], None] | None = None,
    ) -> None:
        """``on_owned`` is told, in :meth:`take`, which partitions are read here from now on."""
        self.problem: str | None = "Kafka has not been reached yet"
        self._topic, self._on_owned = topic, on_owned or (lambda _: None)
        self._committed: dict[int, int] = {}
        self._consumer = Consumer(
            {
                **connection,
                "group.id": group,
                "enable.auto.commit": False,
                "enable.auto.offset.store": False,
                "auto.offset.reset": "earliest",
                # The far end may be away for long; being thrown out of the group meanwhile would help nobody.
                "max.poll.interval.ms": 3_600_000,
                # How long a killed one holds on to its partitions.
                "session.timeout.ms": 10_000,
                "error_cb": self._on_error,
            },
            logger=quiet(),
        )
        self._consumer.subscribe([topic], on_assign=self._on_assign, on_revoke=self._on_revoke)

    def take(self, most: int, wait_s: float) -> list[Record]:
        """What waits, at most so many; empty after ``wait_s`` without any. Raises StopServiceError."""
        return take(self._consumer, most, wait_s)

    def commit(self, records: Sequence[Record]) -> None:
        """The far end has all of these, and all before them."""
        last = {record.partition: record.offset for record in records}
        offsets = [TopicPartition(self._topic, partition, offset + 1) for partition, offset in last.items()]
        try:
            self._consumer.commit(offsets=offsets, asynchronous=False)
            self._committed |= {one.partition: one.offset for one in offsets}
        except KafkaException as error:
            # Not committed is read again: by us, or by who has the partition now.
            log.warning("a commit failed; these records will come again", error=error.args[0].str())

    def lag(self) -> int | None:
        """Records of our partitions that are not committed yet, by what the last fetch said; None: not known yet."""
        behind = 0
        for partition, done in self._committed.items():
            try:
                _, end = self._consumer.get_watermark_offsets(TopicPartition(self._topic, partition), cached=True)
            except KafkaException:
                return None
            behind += max(0, end - done)
        return behind if self._committed else None

    def close(self) -> None:
        """Leave the group."""
        self._consumer.close()

    def _on_assign(self, _consumer: Consumer, partitions: Sequence[TopicPartition]) -> None:
        self.problem = None
        self._committed.clear()
        self._on_owned([one.partition for one in partitions])

    def _on_revoke(self, _consumer: Consumer, _partitions: Sequence[TopicPartition]) -> None:
        self._on_owned([])

    def _on_error(self, error: KafkaError) -> None:
        if error.code() == KafkaError._ALL_BROKERS_DOWN:
            self.problem = error.str()
            log.warning("Kafka cannot be reached, trying on", error=error.str())
