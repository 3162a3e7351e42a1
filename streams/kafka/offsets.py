"""Asks the broker where partitions begin and end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from confluent_kafka import IsolationLevel, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

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
