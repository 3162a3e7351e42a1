"""Exactly-once processing: the records of some topics are read, and everything made from them is written, atomically.

Theory of operation. A worker repeats read, process, commit:

1. :meth:`ExactlyOnce.take` reads the next records, say offsets 100 to 149 of ``deltas`` partition 3.
2. The caller computes what they change, in memory.
3. :meth:`ExactlyOnce.commit` opens a Kafka transaction, writes the results, adds the offset 150 of partition 3 to the
   same transaction, and commits it. Readers with ``isolation.level=read_committed`` see all of the results or none.

So a crash between any two steps leaves Kafka as it was at the last commit, and the next worker reads from 100 again.
Three cases need more than that:

- *Another worker takes the partition over while this one is frozen.* The offsets carry the group's generation. The
  broker has a newer generation by then and refuses the transaction (this is how a zombie is fenced, KIP-447).
- *A transaction fails.* Memory is then ahead of Kafka. :class:`TransactionAbortedError` tells the caller to drop all of
  its state, make a new :class:`ExactlyOnce`, and rebuild from what was committed.
- *State that is not in Kafka must be rebuilt*, such as which records were seen in the last minutes. The caller names a
  time in ``replay_from_ms``, or a number in :attr:`ExactlyOnce.replay_records`; records from then up to the committed
  offset are read once more, and :meth:`ExactlyOnce.is_replayed` is true for them: they update the state and produce
  nothing.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import structlog
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition

from enrich.runtime.process import Exit, StopServiceError
from streams.kafka.connection import CALL_TIMEOUT_S, Connection, make_consumer, report_unreachable, silent_logger
from streams.kafka.errors import lacks_right
from streams.kafka.followed import Followed
from streams.kafka.hanging_calls import close_consumer, send_offsets
from streams.kafka.lag import LagMonitor
from streams.kafka.offsets import offsets_for_times
from streams.kafka.records import Record, TopicAndPartition, take
from streams.kafka.send_one import send_in_transaction
from streams.kafka.unreadable import Unreadable

log = structlog.get_logger("kubeweir.streams")

_PRODUCER: Final = {
    "compression.type": "lz4",
    "partitioner": "murmur2_random",
    "linger.ms": 1,
    "message.max.bytes": 4 << 20,
}
_CONSUMER: Final = {
    "isolation.level": "read_committed",
    "heartbeat.interval.ms": 2_000,
    "fetch.wait.max.ms": 100,
    "error_cb": report_unreachable,
}
_TRANSACTION_MS: Final = 10_000
_DELIVERY_MS: Final = 8_000
_SESSION_MS: Final = 6_000
"""After a kill -9, the partitions wait this long for their next owner. Brokers refuse less by default."""


class TransactionAbortedError(RuntimeError):
    """A transaction was aborted. Drop all state, make a new :class:`ExactlyOnce`, and begin from the last commit."""


@dataclass(frozen=True, slots=True)
class Write:
    """One record to write in a transaction. ``partition`` -1: chosen by the hash of the key."""

    topic: str
    key: bytes | None
    value: bytes | None
    partition: int = -1


class ExactlyOnce:
    """A consumer in a group and a transactional producer, used together on one thread."""

    def __init__(
        self,
        connection: Connection,
        group: str,
        topics: Sequence[str],
        name: str,
        replay_from_ms: Callable[[str], int],
        on_assigned: Callable[[Sequence[TopicAndPartition]], None],
        monitor: LagMonitor | None = None,
        patience: int = 1,
    ) -> None:
        """``name`` is the producer's transactional id; no other worker may have the same. ``replay_from_ms`` returns,
        for a topic, the Unix time from which its records are read once more. ``on_assigned`` is called, inside
        :meth:`take`, with the partitions that this worker reads from now on. ``monitor`` measures the group until
        :meth:`close`.
        ``patience``: a factor of how long Kafka and this worker may leave each other without an answer.

        Raises TransactionAbortedError if librdkafka makes no client."""
        self._group, self._monitor, self._call_s = group, monitor, CALL_TIMEOUT_S * patience
        self.replay_records = 0
        """So many records of each partition are read once more in any case."""
        self.needs: Collection[str] = ()
        """Topics that are written, and prefixes of transactional ids; see :class:`streams.kafka.followed.Followed`."""
        self.problem: str | None = "Kafka has not been reached yet"
        self.has_committed = False
        self._is_closing = False
        self._topics, self._replay_from_ms, self._on_assigned = topics, replay_from_ms, on_assigned
        self._replayed_until: dict[TopicAndPartition, int] = {}
        """Offsets that were committed when the partition was assigned."""
        self._next: dict[TopicAndPartition, int] = {}
        """Offsets that the next transaction commits."""
        try:
            times = {"transaction.timeout.ms": _TRANSACTION_MS, "delivery.timeout.ms": _DELIVERY_MS}
            own = {**_PRODUCER, **{key: patience * value for key, value in times.items()}, "transactional.id": name}
            self._producer = Producer({**connection, **own}, logger=silent_logger())
            self._consumer = make_consumer(
                connection, group, {**_CONSUMER, "session.timeout.ms": patience * _SESSION_MS}
            )
        except KafkaException as error:
            # These raise while a certificate is half written, as it may be when it is renewed.
            raise TransactionAbortedError(error.args[0].str()) from error
        unreadable = Unreadable(connection, group, {"isolation.level": "read_committed"})
        self._pass_over = partial(unreadable.pass_over, self._consumer)

    def start(self, stop: threading.Event) -> bool:
        """Join the group. Return False if the service stops before Kafka can be reached.

        Raises StopServiceError, and TransactionAbortedError if a right is missing."""
        while not stop.is_set():
            try:
                self._producer.init_transactions(CALL_TIMEOUT_S)
            except KafkaException as error:
                if lacks_right(error.args[0]):
                    # The right may be given at any time, and this producer cannot go on.
                    raise TransactionAbortedError(f"transactions: {error.args[0].str()}") from error
                if not error.args[0].retriable():
                    raise StopServiceError(f"transactions: {error.args[0].str()}", Exit.KAFKA) from error
            else:
                self._consumer.subscribe(
                    list(self._topics), on_assign=self._assign, on_revoke=self._revoke, on_lost=self._revoke
                )
                if self._monitor is not None:
                    followed = Followed(self._group, self._topics, lambda: list(self._next), needs=self.needs)
                    self._monitor.follow(followed)
                return True
        return False

    def take(self, max_records: int, wait_s: float) -> list[Record]:
        """Return up to ``max_records`` records; an empty list after ``wait_s`` without any.

        Raises StopServiceError or TransactionAbortedError."""
        try:
            refused: list[str] = []
            records = take(self._consumer, max_records, wait_s, refused, self._pass_over)
        except KafkaException as error:
            raise TransactionAbortedError(error.args[0].str()) from error
        if refused or records:
            self.problem = refused[-1] if refused else None
        for record in records:
            key = (record.topic, record.partition)
            self._next[key] = max(self._next.get(key, 0), record.offset + 1)
        if records and self._monitor is not None:
            self._monitor.note("fetch")
        return records

    def is_replayed(self, record: Record) -> bool:
        """Return whether a record was processed, and its results committed, before this worker got the partition."""
        return record.offset < self._replayed_until.get((record.topic, record.partition), 0)

    def commit(self, writes: Iterable[Write]) -> None:
        """Commit the writes and the offsets of everything taken since the last commit, atomically.

        Raises TransactionAbortedError, then neither is committed; StopServiceError if too many calls hang."""
        errors: list[KafkaError] = []
        try:
            self._producer.begin_transaction()
            for write in writes:
                send_in_transaction(self._producer, write.topic, write.key, write.value, write.partition, errors)
            offsets = [TopicPartition(topic, partition, after) for (topic, partition), after in self._next.items()]
            metadata = self._consumer.consumer_group_metadata()
            self._retry(lambda: send_offsets(self._producer, offsets, metadata, self._call_s))
            self._retry(lambda: self._producer.commit_transaction(self._call_s))
        except KafkaException as error:
            raise TransactionAbortedError((errors[0] if errors else error.args[0]).str()) from error
        self.has_committed = True
        if self._monitor is not None:
            self._monitor.note("produce")
            self._monitor.note("commit")

    def lag(self) -> int | None:
        """Return how many records of our partitions are not taken yet, as of the last fetch; None if unknown."""
        behind = 0
        for (topic, partition), done in self._next.items():
            try:
                _, end = self._consumer.get_watermark_offsets(TopicPartition(topic, partition), cached=True)
            except KafkaException:
                return None
            behind += max(0, end - done)
        return behind if self._next else None

    def close(self) -> None:
        """Leave the group. The broker aborts an open transaction after its timeout if it cannot be aborted now."""
        self._is_closing = True
        if self._monitor is not None:
            self._monitor.forget(self._group)
        try:
            self._producer.abort_transaction(1)
        except KafkaException as error:
            log.debug("no transaction was open", error=error.args[0].str())
        if not close_consumer(self._consumer):
            # The loop has begun again with another consumer by the time the client calls back.
            self._on_assigned = lambda _: None

    def _assign(self, consumer: Consumer, partitions: Sequence[TopicPartition]) -> None:
        # A KafkaException that the client raises inside this callback leaves consume() as a KafkaError, which is not an
        # exception and cannot be caught. Exceptions of our own pass through.
        if self._is_closing:
            # close() serves an assignment that has waited; nothing will be read, so Kafka is not asked.
            return
        try:
            self._take_over(consumer, partitions)
        except KafkaException as error:
            raise TransactionAbortedError(error.args[0].str()) from error

    def _take_over(self, consumer: Consumer, partitions: Sequence[TopicPartition]) -> None:
        if not partitions:
            # There are more workers than partitions. librdkafka refuses to ask for no offsets.
            self._revoke(consumer, partitions)
            consumer.assign([])
            self.problem = None
            return
        # The previous owner's transaction may be committing right now: committed() waits until it has ended.
        committed_offsets = {
            (one.topic, one.partition): one.offset for one in consumer.committed(list(partitions), self._call_s)
        }
        since = [TopicPartition(one.topic, one.partition, self._replay_from_ms(one.topic)) for one in partitions]
        replay = {(one.topic, one.partition): one.offset for one in offsets_for_times(consumer, since, self._call_s)}
        starts = []
        self._replayed_until.clear()
        self._next.clear()
        for key, committed in committed_offsets.items():
            first, _ = consumer.get_watermark_offsets(TopicPartition(*key), self._call_s)
            # Nothing is committed yet, or retention has removed the records at the committed offset.
            after_commit = max(first, committed)
            self._replayed_until[key] = self._next[key] = after_commit
            start = after_commit if replay[key] < 0 else min(after_commit, replay[key])
            starts.append(TopicPartition(*key, max(first, min(start, after_commit - self.replay_records))))
        self._on_assigned(list(committed_offsets))
        consumer.assign(starts)
        self.problem = None

    def _revoke(self, _consumer: Consumer, _partitions: Sequence[TopicPartition]) -> None:
        self._replayed_until.clear()
        self._next.clear()
        self._on_assigned([])

    def _retry(self, call: Callable[[], None]) -> None:
        """Run one of the calls that end a transaction, again if librdkafka says that the error is retriable."""
        deadline = time.monotonic() + 2 * self._call_s
        while True:
            try:
                return call()
            except KafkaException as error:
                if not error.args[0].retriable() or time.monotonic() > deadline:
                    raise
