"""A reader that asks for offsets while leaders of partitions move."""

from __future__ import annotations

from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException, TopicPartition

from streams.kafka.connection import ReadError
from streams.kafka.reading import TopicReader


class _Consumer:
    """Answers after it has raised what it is given."""

    def __init__(self, *codes: int) -> None:
        self.codes = iter(codes)

    def offsets_for_times(self, requests: list[TopicPartition], timeout: float) -> list[TopicPartition]:
        for code in self.codes:
            raise KafkaException(KafkaError(code))
        return [TopicPartition(one.topic, one.partition, 7) for one in requests]


@pytest.fixture
def reader() -> Any:
    made: Any = TopicReader.__new__(TopicReader)
    made._topic, made._partitions, made._timeout_s = "flows", [0], 30.0
    return made


def test_the_question_is_asked_again_until_there_are_leaders(reader: Any) -> None:
    reader._consumer = _Consumer(KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError.LEADER_NOT_AVAILABLE)
    assert reader.bounds() == {0: (7, 7)}


def test_another_error_is_said_at_once(reader: Any) -> None:
    reader._consumer = _Consumer(KafkaError.TOPIC_AUTHORIZATION_FAILED)
    with pytest.raises(ReadError, match="cannot be reached"):
        reader.bounds()


def test_leaders_that_do_not_come_are_an_error_in_time(reader: Any) -> None:
    reader._timeout_s = 0.0
    reader._consumer = _Consumer(KafkaError.NOT_LEADER_FOR_PARTITION)
    with pytest.raises(ReadError):
        reader.bounds()
