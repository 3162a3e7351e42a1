"""Asks the broker where partitions begin and end."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

from confluent_kafka import Consumer, IsolationLevel, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from streams.kafka.connection import CALL_TIMEOUT_S, Connection, ReadError, admin_client
from streams.kafka.errors import error_text
from streams.kafka.records import TopicAndPartition

T = TypeVar("T")

_TIMEOUT_S: Final = 5.0
_LEADERS_MOVE: Final = frozenset(
    {
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.FENCED_LEADER_EPOCH,
        KafkaError.UNKNOWN_LEADER_EPOCH,
    }
)
"""A broker says so for a moment: when a topic is new, a broker starts, or leadership moves."""
_AGAIN_S: Final = 0.1


def ask_while_leaders_move(ask: Callable[[], T], timeout_s: float) -> T:
    """Return the answer to a question about partitions. Asks again while their leaders move, because librdkafka raises
    for offsets at once. Raises KafkaException."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            return ask()
        except KafkaException as error:
            if error.args[0].code() not in _LEADERS_MOVE or time.monotonic() >= deadline:
                raise
            time.sleep(_AGAIN_S)


def offsets_for_times(consumer: Consumer, requests: Sequence[TopicPartition], timeout_s: float) -> list[TopicPartition]:
    """Return the first offset at or after the time that each request has as its offset; -1 if there is none.

    Raises KafkaException, also for an error of a single partition."""

    def ask() -> list[TopicPartition]:
        found: list[TopicPartition] = consumer.offsets_for_times(list(requests), timeout=timeout_s)
        for one in found:
            if one.error is not None:
                raise KafkaException(one.error)
        return found

    return ask_while_leaders_move(ask, timeout_s)


def first_or_last_offsets(
    admin: AdminClient,
    places: Sequence[TopicAndPartition],
    spec: OffsetSpec,
    level: IsolationLevel = IsolationLevel.READ_COMMITTED,
) -> dict[TopicAndPartition, int]:
    """Return the first or the last offset of partitions, by default as of committed transactions."""
    if not places:
        return {}
    requests = {TopicPartition(*place): spec for place in places}
    answers = admin.list_offsets(requests, isolation_level=level, request_timeout=_TIMEOUT_S)
    return {(one.topic, one.partition): answer.result(2 * _TIMEOUT_S).offset for one, answer in answers.items()}


def stable_and_last_offsets(
    admin: AdminClient, places: Sequence[TopicAndPartition]
) -> tuple[dict[TopicAndPartition, int], dict[TopicAndPartition, int]]:
    """Return up to where readers of committed records get, and where the partitions end. In between, a transaction is
    open, or some were written between the two questions. Raises KafkaException and TimeoutError."""
    stable = first_or_last_offsets(admin, places, OffsetSpec.latest())
    return stable, first_or_last_offsets(admin, places, OffsetSpec.latest(), IsolationLevel.READ_UNCOMMITTED)


def newest_time_ms(connection: Connection, topic: str, partition: int) -> int:
    """Return the latest time of all records of a partition in Unix milliseconds; -1 if it has none.

    Raises ReadError."""
    request = {TopicPartition(topic, partition): OffsetSpec.max_timestamp()}
    # Without a name of its own, the client would be gone before the answer.
    admin = admin_client(connection)

    def ask() -> int:
        answers = admin.list_offsets(request, request_timeout=CALL_TIMEOUT_S)
        return max(int(answer.result(2 * CALL_TIMEOUT_S).timestamp) for answer in answers.values())

    try:
        return ask_while_leaders_move(ask, CALL_TIMEOUT_S)
    except (KafkaException, TimeoutError) as error:
        raise ReadError(f"{topic}: {error_text(error)}") from error
