"""Writes records together with marks that say up to which offset of another topic they count, atomically.

THEORY OF OPERATION

A worker counts the records of a topic that it reads in a group, and writes the counts every few seconds. If it is
killed, the next one must know what the counts on the topic include. So a mark for each partition is written in the same
Kafka transaction as the counts. The marks are offsets of a consumer group of their own, which has no members:
``kafka-consumer-groups --describe`` shows them.

A worker that was frozen may wake up and write after another has taken its partitions over. So the name of the writer
stands with each mark. Who takes a partition over that another writer has not released *fences* that one: it begins with
the other's transactional id, after which Kafka refuses the other's transactions (:class:`FencedError`). Then it reads
the marks once more. A fenced worker that is alive makes a new writer, and asks who has its partitions.

After a failed write, a writer begins with its own transactional id once more, and Kafka would not refuse that. So it
looks whose names stand with the marks before it writes.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import structlog
from confluent_kafka import OFFSET_END, Consumer, KafkaError, KafkaException, Producer, TopicPartition

from enrich.runtime.process import StopServiceError
from streams.kafka.connection import CALL_TIMEOUT_S, Connection, make_consumer, silent_logger
from streams.kafka.hanging_calls import send_offsets
from streams.kafka.offsets import offsets_for_times
from streams.kafka.send_one import send_in_transaction

log = structlog.get_logger("kubeweir.streams")

_PRODUCER: Final = {
    "transaction.timeout.ms": 20_000,
    "delivery.timeout.ms": 15_000,
    "compression.type": "zstd",
    "partitioner": "murmur2_random",
    "linger.ms": 20,
    "batch.size": 900_000,
    # The broker limits the size of a record, by what compression leaves of it.
    "message.max.bytes": 16 << 20,
    "topic.metadata.propagation.max.ms": 5_000,
}
_FENCED: Final = frozenset({KafkaError._FENCED, KafkaError.INVALID_PRODUCER_EPOCH, KafkaError.PRODUCER_FENCED})
_MAX_WRITER: Final = 64


class MarkError(RuntimeError):
    """Nothing was written, or it is not known whether it was. Writing the same once more does no harm."""

    def __init__(self, error: KafkaError) -> None:
        super().__init__(str(error.str()))
        self.error = error


class FencedError(MarkError):
    """Another worker has taken a partition over, and this writer must not write any more."""


@dataclass(frozen=True, slots=True)
class Mark:
    """Up to where a partition is counted, and by whom."""

    offset: int | None
    """The first offset that is not counted; None if there is no mark."""
    first: int
    """The first offset that the partition still has."""
    end: int
    """The next offset to be written to the partition."""


class MarkedWriter:
    """The writer of one worker. Every method blocks; no two may run at once. ``close`` may be called at any time."""

    def __init__(self, connection: Connection, group: str, topic: str) -> None:
        """``group`` has the marks of the partitions of ``topic``. Its name with a dot begins the transactional id."""
        self._connection, self._group, self._topic = connection, group, topic
        self.name = secrets.token_hex(8)
        self._fenced: KafkaError | None = None
        self._names: dict[int, str] = {}
        """For each partition, the name that stood with the mark when it was read or written last."""
        self._producer: Producer | None = None
        self._consumer: Consumer | None = None

    def take_over(self, partitions: Collection[int]) -> dict[int, Mark]:
        """Fence the writers that have not released these partitions; return the marks.

        Raises :class:`MarkError`."""
        try:
            found = self._committed(partitions)
            others = {one.metadata for one in found if one.offset >= 0 and one.metadata and one.metadata != self.name}
            for other in sorted(others):
                if len(other) <= _MAX_WRITER:
                    log.info(
                        "another writer has not released its partitions; it is fenced", group=self._group, writer=other
                    )
                    self._new_producer(other).init_transactions(CALL_TIMEOUT_S)
            if others:
                found = self._committed(partitions)
            self._names |= {one.partition: one.metadata or "" for one in found}
            return {one.partition: self._mark(one) for one in found}
        except KafkaException as error:
            raise MarkError(error.args[0]) from error

    def ends(self) -> dict[int, int]:
        """Return the end of each partition of the topic. Raises :class:`MarkError`."""
        try:
            found = self._reader().list_topics(self._topic, CALL_TIMEOUT_S).topics[self._topic]
            places = [TopicPartition(self._topic, partition, OFFSET_END) for partition in found.partitions]
            ends = offsets_for_times(self._reader(), places, CALL_TIMEOUT_S) if places else []
        except KafkaException as error:
            raise MarkError(error.args[0]) from error
        return {one.partition: one.offset for one in ends if one.error is None and one.offset >= 0}

    def write(
        self, records: Iterable[tuple[str, bytes, bytes]], marks: Mapping[int, int], released: Collection[int] = ()
    ) -> None:
        """Write records (topic, key and value) and marks, all or nothing. Partitions in ``released`` may be taken over
        without fencing this writer. Raises :class:`MarkError`; after a :class:`FencedError`, always that one."""
        if self._fenced is not None:
            raise FencedError(self._fenced)
        errors: list[KafkaError] = []
        try:
            producer = self._in_transaction(marks)
            for topic, key, value in records:
                send_in_transaction(producer, topic, key, value, -1, errors)
            offsets = [
                TopicPartition(self._topic, partition, offset, "" if partition in released else self.name)
                for partition, offset in marks.items()
            ]
            group = self._reader().consumer_group_metadata()
            send_offsets(producer, offsets, group)
            producer.commit_transaction(CALL_TIMEOUT_S)
            self._names |= {one.partition: one.metadata or "" for one in offsets}
        except KafkaException as error:
            # The next write begins with a new producer of the same name, which ends what this one has begun.
            self._producer = None
            found: KafkaError = error.args[0]
            if found.code() in _FENCED:
                self._fenced = found
                raise FencedError(found) from error
            raise MarkError(errors[0] if errors else found) from error
        except StopServiceError as error:
            # Flows go on, and so do the counts in memory: no process ends because pairs cannot be written.
            self._producer = None
            raise MarkError(KafkaError(KafkaError._TIMED_OUT, str(error))) from error

    def close(self) -> None:
        """Forget the clients."""
        self._producer = self._consumer = None

    def _in_transaction(self, marks: Collection[int]) -> Producer:
        producer = self._producer
        if producer is None:
            producer = self._new_producer(self.name)
            producer.init_transactions(CALL_TIMEOUT_S)
            self._check_names(marks)
            self._producer = producer
        producer.begin_transaction()
        return producer

    def _check_names(self, partitions: Collection[int]) -> None:
        """Raise if another writer has taken one of the partitions over."""
        for one in self._committed(partitions) if partitions else ():
            if (one.metadata or "") not in {self.name, self._names.get(one.partition, "")}:
                raise KafkaException(KafkaError(KafkaError._FENCED, f"partition {one.partition} has another writer"))

    def _new_producer(self, name: str) -> Producer:
        own = {"transactional.id": f"{self._group}.{name}"}
        return Producer({**self._connection, **_PRODUCER, **own}, logger=silent_logger())

    def _reader(self) -> Consumer:
        consumer = self._consumer
        if consumer is None:
            consumer = self._consumer = make_consumer(self._connection, self._group, {})
        return consumer

    def _committed(self, partitions: Collection[int]) -> list[Any]:
        places = [TopicPartition(self._topic, partition) for partition in sorted(partitions)]
        found = self._reader().committed(places, CALL_TIMEOUT_S)
        for one in found:
            if one.error is not None:
                raise KafkaException(one.error)
        return list(found)

    def _mark(self, found: TopicPartition) -> Mark:
        place = TopicPartition(self._topic, found.partition)
        first, end = self._reader().get_watermark_offsets(place, CALL_TIMEOUT_S)
        return Mark(found.offset if found.offset >= 0 else None, first, end)
