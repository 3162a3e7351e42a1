"""What asks Kafka again and again goes on with a client that may still be connecting, without a broker."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException

from enrich.runtime import renewed_client
from streams.kafka import committed, consumer_groups, lag
from streams.kafka.committed import CommittedOffsets
from streams.kafka.consumer_groups import GroupCoordinators
from streams.kafka.lag import LagMonitor
from tests.streams.test_lag import Metrics


class Kafka:
    """Counts the clients, and answers each call after five seconds, or not at all."""

    def __init__(self) -> None:
        self.now, self.made, self.closed = 0.0, 0, 0
        self.answers = False

    def client(self, *_: object) -> Any:
        self.made += 1
        return SimpleNamespace(
            list_topics=self._call, committed=self._call, close=self._close, describe_consumer_groups=self._describe
        )

    def _call(self, *_: object, **__: object) -> list[Any]:
        self.now += 5.0
        if not self.answers:
            raise KafkaException(KafkaError(KafkaError._TRANSPORT))
        return []

    def _describe(self, names: list[str], **_: object) -> dict[str, Future[Any]]:
        future: Future[Any] = Future()
        try:
            future.set_result(SimpleNamespace(members=self._call()))
        except KafkaException as error:
            future.set_exception(error)
        return {names[0]: future}

    def _close(self) -> None:
        self.closed += 1


@pytest.fixture
def kafka(monkeypatch: pytest.MonkeyPatch) -> Kafka:
    made = Kafka()
    monkeypatch.setattr(renewed_client, "time", SimpleNamespace(monotonic=lambda: made.now))
    monkeypatch.setattr(lag, "admin_client", made.client)
    monkeypatch.setattr(consumer_groups, "admin_client", made.client)
    monkeypatch.setattr(committed, "make_consumer", made.client)
    return made


def measuring() -> Callable[[], object]:
    return LagMonitor({"bootstrap.servers": "kafka:9092"}, 60.0, Metrics())._look


def coordinators() -> Callable[[], object]:
    groups = GroupCoordinators({})
    return lambda: groups.others("g", "")


def offsets() -> Callable[[], object]:
    committed_offsets = CommittedOffsets({}, 5.0)

    def ask() -> None:
        try:
            committed_offsets.of("g", [("t", 0)])
        except KafkaException:
            committed_offsets.unanswered()

    return ask


@pytest.mark.parametrize("asks", [measuring, coordinators, offsets], ids=lambda one: one.__name__)
def test_a_client_is_asked_again_until_its_connection_cannot_come(
    kafka: Kafka, asks: Callable[[], Callable[[], object]]
) -> None:
    look = asks()

    def ask() -> None:
        try:
            look()
        except KafkaException:
            assert not kafka.answers

    for _ in range(6):
        ask()
    assert kafka.made == 1
    # librdkafka has given the connection up after 30 s: this one asks the bootstrap servers again.
    ask()
    assert kafka.made == 2
    kafka.answers = True
    ask()
    ask()
    assert kafka.made == 2, "the client that was answered is used again"
    kafka.answers = False
    ask()
    ask()
    assert kafka.made == 3, "it may hold on to brokers that are gone"
    assert kafka.closed == (2 if asks is offsets else 0)


def test_a_second_client_of_a_group_is_kept_only_while_it_is_needed(kafka: Kafka) -> None:
    kafka.answers = True
    offsets = CommittedOffsets({}, 5.0)
    for _ in range(2):
        for stable in (True, False):
            offsets.of("g", [("t", 0)], stable=stable)
        offsets.keep(["g"])
    assert (kafka.made, kafka.closed) == (2, 0)
    offsets.of("g", [("t", 0)])
    offsets.keep(["g"])
    assert (kafka.made, kafka.closed) == (2, 1)
    offsets.keep([])
    assert (kafka.made, kafka.closed) == (2, 2)
