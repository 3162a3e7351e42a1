"""Topics read, and what comes of them written, in one transaction."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import structlog
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

from enrich.runtime.process import Exit, StopServiceError
from streams.kafka.connection import CALL_S, Connection, quiet
from streams.kafka.records import Record, take

log = structlog.get_logger("kubeweir.streams")


class AgainError(RuntimeError):
    """A transaction came to nothing: what was read since the last one is to be read again, from the beginning."""


Place = tuple[str, int]
"""A topic and a partition."""


@dataclass(frozen=True, slots=True)
class Write:
    """One record to be written in a transaction."""

    topic: str
    key: bytes | None
    value: bytes | None
    partition: int = -1


class ExactlyOnce:
    """Reads topics as a member of a group; what comes of it is written in one transaction with the offsets.

    Who has lost a partition, or was frozen meanwhile, cannot commit: the broker compares the group's generation. Where
    that or anything else ends a transaction, :class:`AgainError` is raised, and another one of these is to be made."""

    def __init__(
        self,
        connection: Connection,
        group: str,
        topics: Sequence[str],
        name: str,
        back_to_ms: Callable[[str], int],
        on_owned: Callable[[Sequence[Place]], None],
    ) -> None:
        """``name``: of this writer, another one for each. ``back_to_ms``: from which time on a topic's records are to
        be read once more, for :meth:`is_replayed` ones tell what was known before. ``on_owned`` is told, in
        :meth:`take`, which partitions are read here from now on."""
        self.problem: str | None = "Kafka has not been reached yet"
        self._topics, self._back_to_ms, self._on_owned = topics, back_to_ms, on_owned
        self._done: dict[Place, int] = {}
        self._next: dict[Place, int] = {}
        self._producer = Producer(
            {
                **connection,
                "transactional.id": name,
                "transaction.timeout.ms": 10_000,
                "delivery.timeout.ms": 8_000,
                "compression.type": "lz4",
                "partitioner": "murmur2_random",
                "linger.ms": 1,
                "message.max.bytes": 4 << 20,
            },
            logger=quiet(),
        )
        self._consumer = Consumer(
            {
                **connection,
                "group.id": group,
                "enable.auto.commit": False,
                "enable.auto.offset.store": False,
                "auto.offset.reset": "earliest",
                "isolation.level": "read_committed",
                # How long a killed one holds on to its partitions; the least that brokers take by default.
                "session.timeout.ms": 6_000,
                "heartbeat.interval.ms": 2_000,
                "fetch.wait.max.ms": 100,
                "error_cb": self._on_error,
            },
            logger=quiet(),
        )

    def start(self, stop: threading.Event) -> bool:
        """Join; False: stopped before Kafka was there. Raises StopServiceError."""
        while not stop.is_set():
            try:
                self._producer.init_transactions(CALL_S)
            except KafkaException as error:
                if not error.args[0].retriable():
                    raise StopServiceError(f"transactions: {error.args[0].str()}", Exit.KAFKA) from error
            else:
                self._consumer.subscribe(
                    list(self._topics), on_assign=self._assign, on_revoke=self._revoke, on_lost=self._revoke
                )
                return True
        return False

    def take(self, most: int, wait_s: float) -> list[Record]:
        """What waits, at most so many; empty after ``wait_s`` without any. Raises StopServiceError, AgainError."""
        try:
            records = take(self._consumer, most, wait_s)
        except KafkaException as error:
            raise AgainError(error.args[0].str()) from error
        for record in records:
            place = (record.topic, record.partition)
            self._next[place] = max(self._next.get(place, 0), record.offset + 1)
        return records

    def is_replayed(self, record: Record) -> bool:
        """Whether it was read, and what came of it committed, before."""
        return record.offset < self._done.get((record.topic, record.partition), 0)

    def commit(self, writes: Iterable[Write]) -> None:
        """These, and that all that was taken is done, or nothing. Raises AgainError."""
        ended: list[KafkaError] = []
        try:
            self._producer.begin_transaction()
            for write in writes:
                self._write(write, ended)
            offsets = [TopicPartition(topic, partition, after) for (topic, partition), after in self._next.items()]
            metadata = self._consumer.consumer_group_metadata()
            _retried(lambda: self._producer.send_offsets_to_transaction(offsets, metadata, CALL_S))
            _retried(lambda: self._producer.commit_transaction(CALL_S))
        except KafkaException as error:
            raise AgainError((ended[0] if ended else error.args[0]).str()) from error

    def lag(self) -> int | None:
        """Records of our partitions that are not taken yet, by what the last fetch said; None: not known yet."""
        behind = 0
        for (topic, partition), done in self._next.items():
            try:
                _, end = self._consumer.get_watermark_offsets(TopicPartition(topic, partition), cached=True)
            except KafkaException:
                return None
            behind += max(0, end - done)
        return behind if self._next else None

    def close(self) -> None:
        """Leave the group. A transaction that was begun is aborted by the broker in time, if not now."""
        try:
            self._producer.abort_transaction(1)
        except KafkaException as error:
            log.debug("no transaction was open", error=error.args[0].str())
        self._consumer.close()

    def _write(self, write: Write, ended: list[KafkaError]) -> None:
        def answered(error: KafkaError | None, _message: Message) -> None:
            if error is not None:
                ended.append(error)

        while True:
            try:
                self._producer.produce(
                    write.topic, write.value, write.key, partition=write.partition, on_delivery=answered
                )
            except BufferError:
                self._producer.poll(0.05)
            else:
                return

    def _assign(self, consumer: Consumer, partitions: Sequence[TopicPartition]) -> None:
        # What the client itself raises in its callback comes out of consume() as a KafkaError, which is no exception
        # and cannot be caught; what is raised in Python comes through.
        try:
            self._take_over(consumer, partitions)
        except KafkaException as error:
            raise AgainError(error.args[0].str()) from error

    def _take_over(self, consumer: Consumer, partitions: Sequence[TopicPartition]) -> None:
        # A transaction of the one who had them before may be about to end: this waits for it.
        done = {(one.topic, one.partition): one.offset for one in consumer.committed(list(partitions), CALL_S)}
        asked = [TopicPartition(one.topic, one.partition, self._back_to_ms(one.topic)) for one in partitions]
        back = {(one.topic, one.partition): one.offset for one in consumer.offsets_for_times(asked, CALL_S)}
        starts = []
        self._done.clear()
        self._next.clear()
        for place, committed in done.items():
            first, _ = consumer.get_watermark_offsets(TopicPartition(*place), CALL_S)
            # None is committed, or retention has passed what is.
            self._done[place] = self._next[place] = max(first, committed)
            start = self._done[place] if back[place] < 0 else max(first, min(self._done[place], back[place]))
            starts.append(TopicPartition(*place, start))
        self._on_owned(list(done))
        consumer.assign(starts)
        self.problem = None

    def _revoke(self, _consumer: Consumer, _partitions: Sequence[TopicPartition]) -> None:
        self._done.clear()
        self._next.clear()
        self._on_owned([])

    def _on_error(self, error: KafkaError) -> None:
        if error.code() == KafkaError._ALL_BROKERS_DOWN:
            self.problem = error.str()
            log.warning("Kafka cannot be reached, trying on", error=error.str())


def _retried(call: Callable[[], None]) -> None:
    """The steps that end a transaction may be tried again as they are, where the library says so."""
    deadline = time.monotonic() + 2 * CALL_S
    while True:
        try:
            return call()
        except KafkaException as error:
            if not error.args[0].retriable() or time.monotonic() > deadline:
                raise
