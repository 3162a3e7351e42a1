"""Records that a consumer has read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

from confluent_kafka import Consumer, KafkaError, Message

from enrich.runtime.process import Exit, StopServiceError
from streams.kafka.errors import lacks_right

TopicAndPartition = tuple[str, int]
"""The name of a topic and the number of one of its partitions."""


@dataclass(frozen=True, slots=True)
class Record:
    """One record, copied out of librdkafka's message. ``key`` and ``value`` are empty where Kafka has null."""

    partition: int
    offset: int
    key: bytes
    value: bytes
    timestamp_ms: int
    headers: tuple[tuple[str, bytes], ...] = ()
    topic: str = ""
    unread: str = ""
    """Why it has no value, if it stands for a batch that cannot be read."""


class Run(NamedTuple):
    """Records of one partition, one behind the other, as columns: millions are read so in half the time."""

    partition: int
    offsets: Sequence[int]
    times_ms: Sequence[int]
    values: Sequence[bytes]

    def first(self, count: int) -> Run:
        """Return the run without what stands behind its first records."""
        return Run(self.partition, self.offsets[:count], self.times_ms[:count], self.values[:count])


PassOver = Callable[[Message], Record | None]
"""Goes on after a batch that cannot be read; see :meth:`streams.kafka.unreadable.Unreadable.pass_over`."""


def is_unreadable(error: KafkaError) -> bool:
    """Return whether an error is about a batch that inflates to more than the client's bound, or is damaged: librdkafka
    would ask for it again for ever."""
    return error.code() in {KafkaError._BAD_COMPRESSION, KafkaError._BAD_MSG}


def take(
    consumer: Consumer, max_records: int, wait_s: float, refused: list[str] | None, pass_over: PassOver
) -> list[Record]:
    """Return up to ``max_records`` records; an empty list after ``wait_s`` without any. Raises StopServiceError.

    ``refused`` receives the errors that say that a right is missing; if it is None, they are raised, too."""
    # consume(n, t) waits until it has n records or t has passed. So wait for one, then take what is already fetched.
    found = consumer.consume(1, wait_s)
    if found:
        found += consumer.consume(max_records - 1, 0)
    return records_of(found, refused, pass_over=pass_over)


def records_of(messages: Iterable[Message], refused: list[str] | None = None, *, pass_over: PassOver) -> list[Record]:
    """Return the records among some messages. Transient errors are skipped; any other raises StopServiceError.

    ``refused``: as for :func:`take`."""
    records, passed = [], set()
    for message in messages:
        error = message.error()
        if error is None:
            records.append(_record(message))
        elif is_unreadable(error):
            # librdkafka may have asked for it more than once.
            place = (message.topic(), message.partition(), message.offset())
            record = None if place in passed else pass_over(message)
            records += [record] if record is not None else []
            passed.add(place)
        elif error.code() == KafkaError._PARTITION_EOF or error.retriable() or _is_transient(error):
            continue
        elif refused is not None and lacks_right(error):
            # The records before and after it must not be dropped; librdkafka asks again by itself.
            refused.append(error.str())
        else:
            raise StopServiceError(f"Kafka: {error.str()}", Exit.KAFKA)
    return records


def runs_of(messages: Sequence[Message], *, pass_over: PassOver) -> Iterator[Run]:
    """Yield the records among some messages as runs. Errors are dealt with as :func:`records_of` does."""
    if any(message.error() is not None for message in messages):
        for partition, found in groupby(records_of(messages, pass_over=pass_over), lambda one: one.partition):
            records = list(found)
            yield Run(
                partition, [one.offset for one in records], [one.timestamp_ms for one in records],
                [one.value for one in records],
            )  # fmt: skip
        return
    for number, group in groupby(messages, lambda one: one.partition()):
        part = list(group)
        yield Run(
            number, [one.offset() for one in part], [one.timestamp()[1] for one in part],
            [one.value() or b"" for one in part],
        )  # fmt: skip


def _is_transient(error: KafkaError) -> bool:
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
