"""Asks the broker where partitions begin and end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from confluent_kafka import IsolationLevel, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from streams.kafka.connection import CALL_TIMEOUT_S, Connection, ReadError, admin_client
from streams.kafka.errors import error_text
from streams.kafka.records import TopicAndPartition

_TIMEOUT_S: Final = 5.0


def first_or_last_offsets(
    admin: AdminClient, places: Sequence[TopicAndPartition], spec: OffsetSpec
) -> dict[TopicAndPartition, int]:
    """Return the first or the last offset of partitions, as of committed transactions."""
    if not places:
        return {}
    requests = {TopicPartition(*place): spec for place in places}
    answers = admin.list_offsets(requests, isolation_level=IsolationLevel.READ_COMMITTED, request_timeout=_TIMEOUT_S)
    return {(one.topic, one.partition): answer.result(2 * _TIMEOUT_S).offset for one, answer in answers.items()}


def newest_time_ms(connection: Connection, topic: str, partition: int) -> int:
    """Return the latest time of all records of a partition in Unix milliseconds; -1 if it has none.

    Raises ReadError."""
    request = {TopicPartition(topic, partition): OffsetSpec.max_timestamp()}
    # Without a name of its own, the client would be gone before the answer.
    admin = admin_client(connection)
    try:
        answers = admin.list_offsets(request, request_timeout=CALL_TIMEOUT_S)
        return max(int(answer.result(2 * CALL_TIMEOUT_S).timestamp) for answer in answers.values())
    except (KafkaException, TimeoutError) as error:
        raise ReadError(f"{topic}: {error_text(error)}") from error
