"""Clients that ask for offsets while leaders of partitions move."""

from __future__ import annotations

from collections.abc import Collection
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest
from confluent_kafka import KafkaError, KafkaException, TopicPartition

from streams.kafka import group_positions, offsets, reading
from streams.kafka.committed import CommittedOffsets
from streams.kafka.connection import ReadError
from streams.kafka.offsets import newest_time_ms
from streams.kafka.reading import TopicReader, read_committed


class _Consumer:
    """Answers after it has raised what it is given."""

    def __init__(self, *codes: int) -> None:
        self.codes = iter(codes)

    def offsets_for_times(self, requests: list[TopicPartition], timeout: float) -> list[TopicPartition]:
        for code in self.codes:
            raise KafkaException(KafkaError(code))
        return [TopicPartition(one.topic, one.partition, 7) for one in requests]


class _Reading(_Consumer):
    """Its partition 0 has no record to read."""

    def __init__(self, *codes: int) -> None:
        super().__init__(*codes)
        self.assigned: list[tuple[int, int]] = []

    def assign(self, places: Collection[TopicPartition]) -> None:
        self.assigned = [(one.partition, one.offset) for one in places]

    def consume(self, _most: int, _wait_s: float) -> list[Any]:
        end = KafkaError(KafkaError._PARTITION_EOF)
        return [SimpleNamespace(partition=lambda: 0, offset=lambda: 7, error=lambda: end)]

    def get_watermark_offsets(self, _place: TopicPartition, *, cached: bool) -> tuple[int, int]:
        return (0, 7) if cached else (0, 0)

    def close(self) -> None:
        pass


class _Future:
    """The answer of an admin client about one partition."""

    def __init__(self, code: int | None = None, **found: int) -> None:
        self._code, self._found = code, found

    def result(self, _timeout_s: float) -> Any:
        if self._code is not None:
            raise KafkaException(KafkaError(self._code))
        return SimpleNamespace(**self._found)


def admin_that_answers(*answers: _Future) -> Any:
    admin = MagicMock()
    admin.list_offsets.side_effect = [{TopicPartition("flows", 0): one} for one in answers]
    admin.list_topics.return_value.topics = {"flows": SimpleNamespace(partitions=[0])}
    return admin


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


def test_an_error_of_one_partition_counts_like_one_of_the_call(reader: Any) -> None:
    class _OfOne:
        codes = iter([KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError.TOPIC_AUTHORIZATION_FAILED])

        def offsets_for_times(self, _requests: Any, timeout: float) -> list[Any]:
            return [SimpleNamespace(partition=0, offset=-1001, error=KafkaError(next(self.codes)))]

    reader._consumer = _OfOne()
    with pytest.raises(ReadError, match="uthoriz"):
        reader.bounds()


def test_a_topic_is_read_from_a_time_on_when_there_are_leaders(monkeypatch: pytest.MonkeyPatch) -> None:
    consumer = _Reading(KafkaError.NOT_LEADER_FOR_PARTITION)
    monkeypatch.setattr(reading, "make_consumer", lambda *_: consumer)
    assert list(read_committed({}, "flows", [0], 1000)) == []
    assert consumer.assigned == [(0, 7)]


def test_the_time_of_the_newest_record_is_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [_Future(KafkaError.LEADER_NOT_AVAILABLE), _Future(timestamp=5)]
    monkeypatch.setattr(offsets, "admin_client", lambda _: admin_that_answers(*answers))
    assert newest_time_ms({}, "flows", 0) == 5


def test_the_ends_of_topics_that_groups_read_are_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    moving = KafkaError.NOT_LEADER_FOR_PARTITION
    answers = [_Future(moving), _Future(offset=2), _Future(moving), _Future(offset=8), _Future(offset=9)]
    monkeypatch.setattr(group_positions, "admin_client", lambda _: admin_that_answers(*answers))
    monkeypatch.setattr(CommittedOffsets, "of", lambda *_: {("flows", 0): 4})
    assert [one.waiting for one in group_positions.group_positions({}, ["g"], ["flows"])] == [5]
