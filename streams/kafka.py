"""Kafka, for everything here but Faust's own consumer; alone imports confluent_kafka.

Topics are made at the start, for a broker that makes one by itself makes one of a single partition. Output goes by one
idempotent producer that never gives up on its own. A sink and `weir observe` read with consumers of their own.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final, Protocol

import structlog
from confluent_kafka import (
    OFFSET_BEGINNING,
    OFFSET_END,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic, ResourceType

from enrich.runtime.process import Exit, StopServiceError
from enrich.topics import Topic
from streams.outgoing import Outgoing

log = structlog.get_logger("kubeweir.streams")

Connection = Mapping[str, str]
"""librdkafka's settings of how Kafka is reached; ``bootstrap.servers`` at least."""

_CALL_S: Final = 10.0
_REPORT_S: Final = 15.0
_FIRST_WAIT_S: Final = 0.5
_LONGEST_WAIT_S: Final = 10.0
_ROUTED_LINGER_MS: Final = 250
_REFUSED: Final = frozenset(
    {
        KafkaError.MSG_SIZE_TOO_LARGE,
        KafkaError.INVALID_MSG,
        KafkaError.INVALID_MSG_SIZE,
        KafkaError.INVALID_TIMESTAMP,
        KafkaError.INVALID_RECORD,
        # What librdkafka says of the neighbours: they are well, and are taken when they come alone.
        KafkaError._INVALID_DIFFERENT_RECORD,
    }
)
"""The record is at fault, not the broker or the rights: trying it again changes nothing."""


def refused(error: KafkaError) -> bool:
    """Whether Kafka will not take this record, whatever is done."""
    return error.code() in _REFUSED


def _quiet() -> logging.Logger:
    """librdkafka's lines repeat what the callbacks tell, several times a second."""
    logger = logging.getLogger("kubeweir.librdkafka")
    logger.addHandler(logging.NullHandler())
    logger.propagate = False
    return logger


class Waiter:
    """Waits between tries, longer each time, and says what it waits for: at once, then now and then."""

    def __init__(self, servers: str, stop: threading.Event) -> None:
        self._servers, self._stop = servers, stop
        self._wait, self._said = _FIRST_WAIT_S, float("-inf")

    def wait(self, why: object) -> None:
        """Until the next try, or the stop."""
        now = time.monotonic()
        if now - self._said >= _REPORT_S:
            self._said = now
            log.warning("Kafka cannot be reached, trying on", servers=self._servers, error=str(why))
        self._stop.wait(self._wait)
        self._wait = min(self._wait * 2, _LONGEST_WAIT_S)


def prepare_topics(connection: Connection, wanted: Iterable[Topic], replication: int, stop: threading.Event) -> bool:
    """Make what is missing, check what is there. Waits for Kafka; False: stopped meanwhile.

    A topic that is not as it must be gets a line and is left alone. One that cannot be made ends the service.
    """
    admin = AdminClient({**connection, "socket.connection.setup.timeout.ms": 5000}, logger=_quiet())
    waiter = Waiter(connection["bootstrap.servers"], stop)
    while not stop.is_set():
        try:
            known = admin.list_topics(timeout=3).topics
            _make(admin, [topic for topic in wanted if topic.name not in known], replication)
            _check(admin, [(topic, len(known[topic.name].partitions)) for topic in wanted if topic.name in known])
        except KafkaException as error:
            waiter.wait(error.args[0].str())
        else:
            return True
    return False


def _make(admin: AdminClient, missing: Sequence[Topic], replication: int) -> None:
    if not missing:
        return
    new = [
        NewTopic(topic.name, topic.partitions, replication_factor=replication or -1, config=dict(topic.config))
        for topic in missing
    ]
    for name, future in admin.create_topics(new).items():
        try:
            future.result(_CALL_S)
            log.info("topic made", topic=name)
        except KafkaException as error:
            code = error.args[0].code()
            if code == KafkaError.TOPIC_ALREADY_EXISTS:
                continue
            if error.args[0].retriable() or code in {KafkaError._TRANSPORT, KafkaError._TIMED_OUT}:
                raise
            raise StopServiceError(f"topic {name} cannot be made: {error.args[0].str()}", Exit.KAFKA) from error


def _check(admin: AdminClient, found: Sequence[tuple[Topic, int]]) -> None:
    resources = [ConfigResource(ResourceType.TOPIC, topic.name) for topic, _ in found]
    if not resources:
        return
    answers = {resource.name: future for resource, future in admin.describe_configs(resources).items()}
    for topic, partitions in found:
        config = {name: entry.value for name, entry in answers[topic.name].result(_CALL_S).items()}
        wrong = topic.differences(partitions, config)
        if wrong:
            log.warning(
                "a topic is not as it must be; it is left as it is: delete it and start again, or change the setting",
                topic=topic.name,
                problems=wrong,
            )


def existing_topics(connection: Connection, stop: threading.Event) -> frozenset[str]:
    """The names of all topics. Waits for Kafka; none if it is stopped meanwhile."""
    admin = AdminClient({**connection, "socket.connection.setup.timeout.ms": 5000}, logger=_quiet())
    waiter = Waiter(connection["bootstrap.servers"], stop)
    while not stop.is_set():
        try:
            return frozenset(admin.list_topics(timeout=3).topics)
        except KafkaException as error:
            waiter.wait(error.args[0].str())
    return frozenset()


class Delivery(Protocol):
    """A delivery callback: no error, or librdkafka's, and the message."""

    def __call__(self, error: Any, message: Any, /) -> None: ...


class Output:
    """The enricher's producer, and the thread that polls it.

    A second producer sends batches of one record: for those whose batch was refused, perhaps for a neighbour's sake.
    """

    def __init__(self, connection: Connection, on_fatal: Callable[[str], None]) -> None:
        """``on_fatal`` is called on the poll thread, once librdkafka can send no more."""
        self._on_fatal = on_fatal
        config = {
            **connection,
            "enable.idempotence": True,
            "acks": "all",
            "delivery.timeout.ms": 0,
            "compression.type": "lz4",
            "partitioner": "murmur2_random",
            # We made the topics: one that is unknown for that long was deleted.
            "topic.metadata.propagation.max.ms": 10_000,
            # What a record may weigh is the broker's to say: its answer names the record.
            "message.max.bytes": 16 << 20,
            "error_cb": self._on_error,
        }
        bounded = {"queue.buffering.max.messages": 200_000, "queue.buffering.max.kbytes": 256 << 10}
        self._config = {**config, **bounded, "linger.ms": 5}
        self._many = Producer(self._config, logger=_quiet())
        self._routed: dict[str, Producer] = {}
        self._by_topic: dict[str, Producer] = {}
        self._single = Producer({**config, "batch.num.messages": 1, "linger.ms": 0}, logger=_quiet())
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._poll, name="kafka-poll", daemon=True)
        self._thread.start()

    def compress(self, topic: str, compression: str) -> None:
        """A topic beside the flows, and how its records are compressed: librdkafka has one way a producer.

        Such topics have few records in many partitions, and a broker is asked once for each batch of each partition:
        ten routes cost it more than the flows do. So their records wait a little longer for their neighbours; no longer
        than :attr:`streams.settings.Settings.in_flight_rows` allows, for their input waits with them."""
        if compression not in self._routed:
            config = {**self._config, "compression.type": compression, "linger.ms": _ROUTED_LINGER_MS}
            self._routed = {**self._routed, compression: Producer(config, logger=_quiet())}
        self._by_topic[topic] = self._routed[compression]

    def offer(
        self,
        topic: str,
        key: bytes,
        value: bytes,
        timestamp_ms: int,
        on_delivery: Delivery,
        headers: Sequence[tuple[str, bytes]] | None = None,
    ) -> bool:
        """Queue a record; False: the queue is full, wait and offer it again."""
        return self._put(self._many, topic, key, value, timestamp_ms, on_delivery, headers)

    def offer_all(self, topic: str, outgoing: Outgoing, deliveries: Sequence[Delivery], start: int) -> int:
        """Queue records from ``start`` on, each with its delivery callback, until the queue is full; where to go on.

        The one loop that runs once a record: it calls librdkafka, and nothing of ours.
        """
        produce = self._by_topic.get(topic, self._many).produce
        columns = zip(outgoing.keys, outgoing.values, outgoing.times_ms, deliveries, strict=True)
        for number, (key, value, at, delivered) in enumerate(islice(columns, start, None), start):
            try:
                produce(topic, value, key, on_delivery=delivered, timestamp=at)
            except BufferError:
                return number
            except KafkaException as error:
                delivered(error.args[0], Refused(topic, key, value))
        return len(outgoing.values)

    def offer_alone(
        self, topic: str, key: bytes | None, value: bytes, timestamp_ms: int, on_delivery: Delivery
    ) -> bool:
        """As :meth:`offer`, in a batch of its own."""
        return self._put(self._single, topic, key, value, timestamp_ms, on_delivery, None)

    @staticmethod
    def _put(
        producer: Producer,
        topic: str,
        key: bytes | None,
        value: bytes,
        timestamp_ms: int,
        on_delivery: Delivery,
        headers: Sequence[tuple[str, bytes]] | None,
    ) -> bool:
        try:
            if headers is None:
                producer.produce(topic, value, key, on_delivery=on_delivery, timestamp=timestamp_ms)
            else:
                producer.produce(
                    topic, value, key, on_delivery=on_delivery, timestamp=timestamp_ms, headers=list(headers)
                )
        except BufferError:
            return False
        except KafkaException as error:
            on_delivery(error.args[0], Refused(topic, key, value))
        return True

    def close(self, patience_s: float) -> int:
        """Send what is queued, for ``patience_s`` at most; how many records are left."""
        left = sum(producer.flush(patience_s) for producer in (self._many, *self._routed.values()))
        left += self._single.flush(0 if patience_s <= 0 else 1)
        self._stop.set()
        self._thread.join()
        for producer in (self._many, *self._routed.values(), self._single):
            producer.purge()
        return int(left)

    def _poll(self) -> None:
        """All of them on one thread: a record that is delivered is counted without a lock."""
        while not self._stop.is_set():
            waiting = [one for one in (*self._routed.values(), self._single) if len(one)]
            self._many.poll(0.01 if waiting else 0.1)
            for producer in waiting:
                producer.poll(0)

    def _on_error(self, error: KafkaError) -> None:
        if error.fatal():
            self._on_fatal(error.str())
        elif error.code() == KafkaError._ALL_BROKERS_DOWN:
            log.warning("Kafka is away; records wait", error=error.str())


@dataclass(frozen=True, slots=True)
class Refused:
    """A record that librdkafka did not even queue, in the shape of its messages."""

    _topic: str
    _key: bytes | None
    _value: bytes

    def topic(self) -> str:
        """Its topic."""
        return self._topic

    def key(self) -> bytes | None:
        """Its key."""
        return self._key

    def value(self) -> bytes:
        """Its value."""
        return self._value


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
            logger=_quiet(),
        )
        self._consumer.subscribe([topic], on_assign=self._on_assign, on_revoke=self._on_revoke)

    def take(self, most: int, wait_s: float) -> list[Record]:
        """What waits, at most so many; empty after ``wait_s`` without any. Raises StopServiceError."""
        # consume(n, t) waits for n records or the whole of t: one first, then what is there.
        found = self._consumer.consume(1, wait_s)
        if found:
            found += self._consumer.consume(most - 1, 0)
        return _good(found)

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
            logger=_quiet(),
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
            logger=_quiet(),
        )

    def start(self, stop: threading.Event) -> bool:
        """Join; False: stopped before Kafka was there. Raises StopServiceError."""
        while not stop.is_set():
            try:
                self._producer.init_transactions(_CALL_S)
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
            found = self._consumer.consume(1, wait_s)
            if found:
                found += self._consumer.consume(most - 1, 0)
        except KafkaException as error:
            raise AgainError(error.args[0].str()) from error
        records = _good(found)
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
            _retried(lambda: self._producer.send_offsets_to_transaction(offsets, metadata, _CALL_S))
            _retried(lambda: self._producer.commit_transaction(_CALL_S))
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
        done = {(one.topic, one.partition): one.offset for one in consumer.committed(list(partitions), _CALL_S)}
        asked = [TopicPartition(one.topic, one.partition, self._back_to_ms(one.topic)) for one in partitions]
        back = {(one.topic, one.partition): one.offset for one in consumer.offsets_for_times(asked, _CALL_S)}
        starts = []
        self._done.clear()
        self._next.clear()
        for place, committed in done.items():
            first, _ = consumer.get_watermark_offsets(TopicPartition(*place), _CALL_S)
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
    deadline = time.monotonic() + 2 * _CALL_S
    while True:
        try:
            return call()
        except KafkaException as error:
            if not error.args[0].retriable() or time.monotonic() > deadline:
                raise


def read_committed(
    connection: Connection, topic: str, partitions: Iterable[int], since_ms: int = 0
) -> Iterator[Record]:
    """All that is committed in some partitions, from a time on, to the last one. Raises :class:`ReadError`."""
    missing = set(partitions)
    if not missing:
        return
    consumer = Consumer(
        {
            **connection,
            "group.id": "kubeweir.state",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "isolation.level": "read_committed",
            "fetch.wait.max.ms": 100,
        },
        logger=_quiet(),
    )
    heard = time.monotonic()
    try:
        asked = [TopicPartition(topic, partition, since_ms) for partition in missing]
        # Where there is none so late it begins at the end.
        consumer.assign(consumer.offsets_for_times(asked, _CALL_S) if since_ms else _beginning(asked))
        while missing:
            found = consumer.consume(5000, 0.1)
            ends = [one for one in found if one.error() and one.error().code() == KafkaError._PARTITION_EOF]
            missing -= {one.partition() for one in ends}
            yield from _good(one for one in found if one not in ends)
            heard = time.monotonic() if found else heard
            if time.monotonic() - heard > 2 * _CALL_S:
                raise ReadError(f"{topic} cannot be read to its end")
    except KafkaException as error:
        raise ReadError(f"{topic}: {error.args[0].str()}") from error
    except StopServiceError as error:
        raise ReadError(str(error)) from error
    finally:
        consumer.close()


def _beginning(partitions: Iterable[TopicPartition]) -> list[TopicPartition]:
    return [TopicPartition(one.topic, one.partition, OFFSET_BEGINNING) for one in partitions]


def partitions_of(connection: Connection, topics: Sequence[str]) -> dict[str, int]:
    """How many each of these topics has. Raises :class:`ReadError`."""
    admin = AdminClient({**connection, "socket.connection.setup.timeout.ms": 5000}, logger=_quiet())
    try:
        found = admin.list_topics(timeout=_CALL_S).topics
    except KafkaException as error:
        raise ReadError(f"Kafka cannot be reached: {error.args[0].str()}") from error
    return {topic: len(found[topic].partitions) if topic in found else 0 for topic in topics}


class DeadLetters:
    """Sends what a far end refuses for good to the dead-letter topic, as it came."""

    def __init__(self, connection: Connection, topic: str, stop: threading.Event) -> None:
        self._topic, self._stop, self._lock = topic, stop, threading.Lock()
        config = {
            **connection,
            "enable.idempotence": True,
            "acks": "all",
            "delivery.timeout.ms": 0,
            "compression.type": "lz4",
            "partitioner": "murmur2_random",
            "message.max.bytes": 16 << 20,
        }
        self._producer = Producer(config, logger=_quiet())

    def bury(self, source: str, record: Record, reason: str, error: str) -> bool:
        """Returns when Kafka has it; False: stopped before. ``source``: the topic that it came from.

        Raises StopServiceError if Kafka will not have it."""
        errors: list[KafkaError | None] = []
        at = {"topic": source, "partition": str(record.partition), "offset": str(record.offset)}
        headers = {"reason": reason, **at, "error": error}
        with self._lock:
            self._producer.produce(
                self._topic,
                record.value,
                "/".join(at.values()).encode(),
                headers=[(name, text.encode()) for name, text in headers.items()],
                on_delivery=lambda error, _message: errors.append(error),
            )
            while not errors and not self._stop.is_set():
                self._producer.poll(0.2)
        if errors and errors[0] is not None:
            raise StopServiceError(f"{self._topic}: {errors[0].str()}", Exit.KAFKA)
        return bool(errors)


def _good(messages: Iterable[Message]) -> list[Record]:
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


class TopicReader:
    """Reads a topic without a group, from chosen offsets: for people. Raises :class:`ReadError`."""

    def __init__(self, connection: Connection, topic: str, timeout_s: float = 5.0) -> None:
        self._topic, self._timeout_s = topic, timeout_s
        servers = connection["bootstrap.servers"]
        self._consumer = Consumer(
            {
                **connection,
                "group.id": "kubeweir.observe",
                "enable.auto.commit": False,
                "enable.auto.offset.store": False,
                "enable.partition.eof": False,
                "auto.offset.reset": "earliest",
                "fetch.wait.max.ms": 100,
                "socket.connection.setup.timeout.ms": 5000,
            },
            logger=_quiet(),
        )
        found = self._call(lambda: self._consumer.list_topics(topic, timeout=timeout_s), servers).topics[topic]
        if found.error is not None:
            raise ReadError(f"there is no topic {topic} at {servers}: has weir-streams run with this prefix?")
        self._partitions = sorted(found.partitions)

    def bounds(self) -> dict[int, tuple[int, int]]:
        """For each partition the first offset that is kept, and the next one that will be written."""
        return {
            partition: self._call(
                lambda partition=partition: self._consumer.get_watermark_offsets(  # type: ignore[misc]  # mypy cannot type a default
                    TopicPartition(self._topic, partition), timeout=self._timeout_s
                )
            )
            for partition in self._partitions
        }

    def at_time(self, timestamp_ms: int) -> dict[int, int]:
        """For each partition the first offset with that timestamp or a later one; its end, where there is none."""
        asked = [TopicPartition(self._topic, partition, timestamp_ms) for partition in self._partitions]
        found = self._call(lambda: self._consumer.offsets_for_times(asked, timeout=self._timeout_s))
        ends = self.bounds()
        return {
            one.partition: ends[one.partition][1] if one.offset in {OFFSET_END, -1} else one.offset for one in found
        }

    def start(self, offsets: Mapping[int, int]) -> None:
        """Read from these offsets on."""
        self._consumer.assign([TopicPartition(self._topic, partition, offset) for partition, offset in offsets.items()])

    def take(self, most: int, wait_s: float) -> list[Record]:
        """What is there; empty after ``wait_s`` without any."""
        try:
            found = self._consumer.consume(1, wait_s)
            if found:
                found += self._consumer.consume(most - 1, 0)
            return _good(found)
        except StopServiceError as error:
            raise ReadError(str(error)) from error

    def close(self) -> None:
        """Disconnect."""
        self._consumer.close()

    @staticmethod
    def _call(ask: Callable[[], Any], servers: str = "") -> Any:
        try:
            return ask()
        except KafkaException as error:
            where = f" at {servers}" if servers else ""
            raise ReadError(f"Kafka cannot be reached{where}: {error.args[0].str()}") from error


class ReadError(RuntimeError):
    """Kafka cannot be read; the message says why, in one line."""
