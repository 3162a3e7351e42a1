"""Topics read without a consumer group: from chosen offsets, committing nothing."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Final, TypeVar

from confluent_kafka import OFFSET_BEGINNING, OFFSET_END, Consumer, KafkaError, KafkaException, Message, TopicPartition

from enrich.diagnosis.transactions import OpenTransaction
from enrich.runtime.process import StopServiceError
from enrich.wire.topics import SMALL
from streams.kafka.connection import CALL_TIMEOUT_S, Connection, NoTopicError, ReadError, make_consumer
from streams.kafka.errors import topic_error
from streams.kafka.hanging_calls import close_consumer
from streams.kafka.offsets import offsets_for_times
from streams.kafka.open_transactions import known
from streams.kafka.reading_limit import is_limited, spend
from streams.kafka.records import Record, Run, records_of, runs_of
from streams.kafka.unreadable import Unreadable

T = TypeVar("T")

_CONNECT_S: Final = 15.0
"""How long a new reader waits for brokers that are slow to connect. The page gives a whole question 20 to 30 s, and
should say why there is no answer."""


def reader_group(topic: str) -> str:
    """Return the name by which a topic is read without a group. Kafka asks for a right on it all the same."""
    return f"{topic}.reader"


def read_committed(
    connection: Connection, topic: str, partitions: Iterable[int], since_ms: int = 0
) -> Iterator[Record]:
    """Yield every committed record of some partitions, from ``since_ms`` (Unix time) to their end.

    A transaction that is open hides what is behind its first record, so it is waited for. Raises :class:`ReadError`,
    also if it does not end in time: whoever goes on from a state would go on from an old one."""
    missing = set(partitions)
    if not missing:
        return
    group, committed = reader_group(topic), {"isolation.level": "read_committed"}
    consumer = make_consumer(connection, group, {**committed, "enable.partition.eof": True, "fetch.wait.max.ms": 100})
    unreadable = Unreadable(connection, group, committed)
    progress_at = time.monotonic()
    behind = _BehindTransactions(consumer, topic)
    try:
        requests = [TopicPartition(topic, partition, since_ms) for partition in missing]
        # A partition without a record that late begins at its end.
        consumer.assign(offsets_for_times(consumer, requests, CALL_TIMEOUT_S) if since_ms else _beginning(requests))
        while missing:
            found = consumer.consume(5000, 0.1)
            _spend(found)
            ends = [one for one in found if _is_end(one)]
            missing -= {one.partition() for one in ends if behind.is_over(one)}
            yield from records_of(
                (one for one in found if one not in ends), pass_over=partial(unreadable.pass_over, consumer)
            )
            progress_at = time.monotonic() if found else progress_at
            if time.monotonic() - progress_at > (1 if behind else 2) * CALL_TIMEOUT_S:
                raise ReadError(f"{topic} cannot be read to its end{behind.in_words(connection)}")
    except KafkaException as error:
        raise ReadError(f"{topic}: {error.args[0].str()}") from error
    except StopServiceError as error:
        raise ReadError(str(error)) from error
    finally:
        close_consumer(consumer)


class _BehindTransactions:
    """Where reading has stopped before the end of a partition, because a transaction is open there."""

    def __init__(self, consumer: Consumer, topic: str) -> None:
        self._consumer, self._topic = consumer, topic
        self._ends: dict[int, int] = {}
        """The ends of partitions when reading stopped for the first time."""
        self._stopped: dict[int, tuple[int, float]] = {}
        """The offsets before which it has stopped, and when."""

    def __bool__(self) -> bool:
        return bool(self._stopped)

    def is_over(self, end: Message) -> bool:
        """Return whether a partition has been read to its end, given the client's message that nothing follows."""
        partition, offset = end.partition(), end.offset()
        if partition not in self._ends:
            # This is the end of all records, as of the last answer of the broker. It sends no request.
            place = TopicPartition(self._topic, partition)
            _, self._ends[partition] = self._consumer.get_watermark_offsets(place, cached=True)
        if offset >= self._ends[partition]:
            self._stopped.pop(partition, None)
            return True
        self._stopped[partition] = (offset, time.time())
        return False

    def in_words(self, connection: Connection) -> str:
        """Return for which transactions reading has waited, as the rest of a sentence."""
        found = [
            known(connection, reader_group(self._topic), OpenTransaction(self._topic, *place, is_exact=False))
            for place in ((partition, *stopped) for partition, stopped in self._stopped.items())
        ]
        text = "; ".join(one.in_words(connection["bootstrap.servers"], time.time()) for one in found)
        return f": {text}" if text else ""


def _beginning(partitions: Iterable[TopicPartition]) -> list[TopicPartition]:
    return [TopicPartition(one.topic, one.partition, OFFSET_BEGINNING) for one in partitions]


def _is_end(message: Message) -> bool:
    error = message.error()
    return error is not None and error.code() == KafkaError._PARTITION_EOF


def _spend(messages: Iterable[Message]) -> None:
    """Count the bytes of messages if this thread has a limit. Adding up the sizes of ten million takes seconds."""
    if is_limited():
        spend(sum(len(one) for one in messages if one.error() is None))


def _note_all_down(all_down: threading.Event, error: KafkaError) -> None:
    if error.code() == KafkaError._ALL_BROKERS_DOWN:
        all_down.set()


class TopicReader:
    """Reads one topic from chosen offsets. Every method but :meth:`close` raises :class:`ReadError`."""

    def __init__(
        self, connection: Connection, topic: str, timeout_s: float = 5.0, *, fetch_bytes: int = int(SMALL)
    ) -> None:
        """``fetch_bytes``: about how much of a partition is fetched at once. By default it is as much as a batch of
        address intervals has, so that at most one is inflated at once."""
        self._topic, self._timeout_s = topic, timeout_s
        # The client gets no method of this reader: it would keep a reader alive that could not be made.
        self._connected_by, self._all_down = time.monotonic() + _CONNECT_S, threading.Event()
        servers = connection["bootstrap.servers"]
        self._unreadable = Unreadable(connection, reader_group(topic))
        settings = {
            "enable.partition.eof": True,
            "fetch.wait.max.ms": 100,
            "fetch.message.max.bytes": fetch_bytes,
            "error_cb": partial(_note_all_down, self._all_down),
        }
        # This raises while a certificate is half written, as it may be when it is renewed.
        self._consumer = self._call(lambda: make_consumer(connection, reader_group(topic), settings), servers)
        found = self._call(lambda: self._patiently(self._list_topic), servers).topics[topic]
        if found.error is not None and found.error.code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
            raise ReadError(topic_error(connection, found.error, "READ", topic))
        if found.error is not None:
            raise NoTopicError(
                f"there is no topic {topic} at {servers}: has weir-streams run there with this WEIR_TOPIC_PREFIX?"
            )
        self._partitions = sorted(found.partitions)
        self._ended: set[int] = set()

    @property
    def partitions(self) -> Sequence[int]:
        """The partitions that are read: all, unless :meth:`narrow` has chosen some."""
        return self._partitions

    def narrow(self, partitions: Collection[int]) -> None:
        """Read only some partitions from now on."""
        self._partitions = [one for one in self._partitions if one in partitions]

    def bounds(self) -> dict[int, tuple[int, int]]:
        """Return, for each partition, the first offset that retention has kept and the next one to be written."""
        firsts, ends = self._offsets(OFFSET_BEGINNING), self._offsets(OFFSET_END)
        return {partition: (firsts[partition], ends[partition]) for partition in self._partitions}

    def at_time(self, timestamp_ms: int) -> dict[int, int]:
        """Return, for each partition, the first offset at or after this time, or its end if there is none."""
        found, ends = self._offsets(timestamp_ms), self._offsets(OFFSET_END)
        return {partition: ends[partition] if offset < 0 else offset for partition, offset in found.items()}

    def _offsets(self, timestamp_ms: int) -> dict[int, int]:
        """Return the first offset at or after a time, by one request to each broker. Kafka takes OFFSET_BEGINNING and
        OFFSET_END for a time, too."""
        requests = [TopicPartition(self._topic, partition, timestamp_ms) for partition in self._partitions]
        found = self._call(
            lambda: self._patiently(lambda: offsets_for_times(self._consumer, requests, self._timeout_s))
        )
        return {one.partition: one.offset for one in found}

    def _list_topic(self) -> Any:
        try:
            return self._consumer.list_topics(self._topic, timeout=self._timeout_s)
        except KafkaException:
            self._consumer.poll(0)  # nothing is assigned yet: this only calls what notes errors
            raise

    def _patiently(self, ask: Callable[[], T]) -> T:
        """Return the answer. Raises KafkaException.

        While this reader is new, a question is asked again if a broker has not answered in time: an overloaded one is
        slow over a TLS handshake, and a client that gives up and begins anew makes that worse. If no broker can be
        connected to at all, or later, it is asked once."""
        while True:
            try:
                return ask()
            except KafkaException as error:
                is_slow = error.args[0].code() in {KafkaError._TRANSPORT, KafkaError._TIMED_OUT}
                if not is_slow or self._all_down.is_set() or time.monotonic() >= self._connected_by:
                    raise

    def start(self, offsets: Mapping[int, int]) -> None:
        """Begin to read, each partition from its offset."""
        self._ended.clear()
        places = [TopicPartition(self._topic, partition, offset) for partition, offset in offsets.items()]
        self._call(lambda: self._consumer.assign(places))
        # What is paused stays so, even if it is assigned again.
        self._call(lambda: self._consumer.resume(places))

    def take(self, max_records: int, wait_s: float) -> list[Record]:
        """Return up to ``max_records`` records; an empty list after ``wait_s`` without any."""
        found = self._messages(max_records, wait_s)
        try:
            return records_of(found, pass_over=partial(self._unreadable.pass_over, self._consumer))
        except StopServiceError as error:
            raise ReadError(str(error)) from error

    def take_runs(self, max_records: int, wait_s: float) -> list[Run]:
        """Return up to ``max_records`` records as columns; an empty list after ``wait_s`` without any."""
        found = self._messages(max_records, wait_s)
        try:
            return list(runs_of(found, pass_over=partial(self._unreadable.pass_over, self._consumer)))
        except StopServiceError as error:
            raise ReadError(str(error)) from error

    def _messages(self, most: int, wait_s: float) -> list[Message]:
        # consume(n, t) waits until it has n records or t has passed. So wait for one, then take what is already there.
        found: list[Message] = self._consumer.consume(1, wait_s)
        if found:
            found += self._consumer.consume(most - 1, 0)
        self._ended |= {one.partition() for one in found if _is_end(one)}
        _spend(found)
        return found

    def skip(self, partitions: Collection[int]) -> None:
        """Read nothing more of some partitions until the next :meth:`start`."""
        self._call(lambda: self._consumer.pause([TopicPartition(self._topic, one) for one in partitions]))

    def ended(self) -> frozenset[int]:
        """Return the partitions that were read to their end since :meth:`start`, whatever stands there."""
        return frozenset(self._ended)

    def close(self) -> None:
        """Disconnect."""
        close_consumer(self._consumer)

    @staticmethod
    def _call(request: Callable[[], Any], servers: str = "") -> Any:
        try:
            return request()
        except KafkaException as error:
            where = f" at {servers}" if servers else ""
            raise ReadError(f"Kafka cannot be reached{where}: {error.args[0].str()}") from error
