"""A slow connection is waited for by the client that has begun it; each answer is a new client's."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from confluent_kafka import KafkaError, KafkaException

from enrich.runtime import renewed_client
from enrich.wire.topics import topics
from probe.export import raw_topic
from probe.export.raw_topic import RawTopic


def test_a_client_that_was_not_answered_is_asked_again_until_its_connection_cannot_come(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made, now, answers = list[object](), [0.0], [False]

    class Admin:
        def __init__(self, *_: object, **__: object) -> None:
            made.append(self)

        def list_topics(self, *_: object, **__: object) -> None:
            now[0] += 2.0
            if not answers[0]:
                raise KafkaException(KafkaError(KafkaError._TRANSPORT))

    monkeypatch.setattr(raw_topic, "AdminClient", Admin)
    monkeypatch.setattr(renewed_client, "time", SimpleNamespace(monotonic=lambda: now[0]))
    topic = RawTopic(topics("kubeweir", 1).raw, {})
    assert [topic.is_reachable() for _ in range(15)] == [False] * 15
    assert len(made) == 1
    # librdkafka has given the connection up after 30 s: this one asks the bootstrap servers again.
    assert not topic.is_reachable()
    assert len(made) == 2
    answers[0] = True
    assert topic.is_reachable()
    assert len(made) == 2
    # The one that was answered may hold on to brokers that are gone soon.
    assert topic.is_reachable()
    assert len(made) == 3
