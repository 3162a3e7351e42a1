"""A group is sent back to the beginning of a topic that was made again, also while a certificate is being renewed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from unittest.mock import MagicMock

import pytest
from confluent_kafka import KafkaError, KafkaException, TopicPartition

from streams.kafka import topic_ids
from streams.kafka.records import TopicAndPartition
from streams.kafka.topic_ids import TopicIds, rewind


def test_a_client_that_cannot_be_made_yet_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    tries: list[Any] = []
    offsets: list[tuple[str, str, int, int]] = []

    def made(connection: Any) -> object:
        tries.append(connection)
        if len(tries) < 3:
            raise KafkaException(KafkaError(KafkaError._INVALID_ARG, "ssl.certificate.location failed: half a file"))
        return object()

    class Groups:
        def __init__(self, _connection: Any) -> None:
            pass

        def set_offsets(self, group: str, given: Sequence[TopicPartition]) -> None:
            offsets.extend((group, one.topic, one.partition, one.offset) for one in given)

    monkeypatch.setattr(topic_ids, "_RETRY_S", 0)
    monkeypatch.setattr(topic_ids, "admin_client", made)
    monkeypatch.setattr(topic_ids, "GroupCoordinators", Groups)
    monkeypatch.setattr(TopicIds, "look", lambda _ids, _admin, topics: [(topic, 0) for topic in topics])
    rewind({}, "g", ["t"], patience_s=60)
    assert len(tries) == 3
    assert offsets == [("g", "t", 0, 0)]


def test_a_client_that_may_still_be_connecting_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    made, asked = list[object](), list[object]()

    def make(_connection: Any) -> object:
        made.append(object())
        return made[-1]

    def look(_ids: TopicIds, admin: object, topics: Sequence[str]) -> list[TopicAndPartition]:
        asked.append(admin)
        if len(asked) < 3:
            raise KafkaException(KafkaError(KafkaError._TRANSPORT))
        return [(topic, 0) for topic in topics]

    monkeypatch.setattr(topic_ids, "_RETRY_S", 0)
    monkeypatch.setattr(topic_ids, "admin_client", make)
    monkeypatch.setattr(topic_ids, "GroupCoordinators", MagicMock())
    monkeypatch.setattr(TopicIds, "look", look)
    rewind({}, "g", ["t"], patience_s=60)
    assert asked == made * 3
