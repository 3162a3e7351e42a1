"""The consumer of a group while its client refuses something: nothing is skipped, and its role goes on."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException, TopicPartition

from streams.kafka import group
from streams.kafka.group import GroupReader
from streams.kafka.records import Record
from tests.waiting import until


class Client:
    """librdkafka's consumer, of which some calls fail once."""

    def __init__(self, *fail: str) -> None:
        self.fail = list(fail)
        self.assigned: list[TopicPartition] = [TopicPartition("t", 0)]

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*_: Any, **__: Any) -> Any:
            if name in self.fail:
                self.fail.remove(name)
                raise KafkaException(KafkaError(KafkaError._STATE, "erroneous state"))
            return self.assigned if name == "assignment" else None

        return call


def record(offset: int) -> Record:
    return Record(0, offset, b"", b"", 0)


def reader(monkeypatch: pytest.MonkeyPatch, client: Client, *fetched: list[Record]) -> GroupReader:
    """A reader whose polls return these records, one list after the other."""
    coming = iter(fetched)
    monkeypatch.setattr(group, "take", lambda *_: next(coming, []))
    monkeypatch.setattr(group, "make_consumer", lambda *_: client)
    return GroupReader({}, "g", "t")


def test_what_arrives_while_the_destination_is_waited_for_is_taken_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    one = reader(monkeypatch, Client("seek"), [record(7)], [record(8)])
    assert not one.wait(0.0, threading.Event())
    assert [found.offset for found in (*one.take(10, 0.0), *one.take(10, 0.0))] == [7, 8]


def test_it_is_forgotten_when_its_partition_is_revoked(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client()
    one = reader(monkeypatch, client, [record(7)])
    one.wait(0.0, threading.Event())
    one._on_revoke(client, [TopicPartition("t", 0)])
    assert one.take(10, 0.0) == []


@pytest.mark.parametrize("call", ["pause", "resume", "assignment"])
def test_a_refused_call_is_a_problem_for_a_moment_and_not_the_end(monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    one = reader(monkeypatch, Client(call), [record(7)], [record(8)], [record(9)])
    problems = []
    found = []
    for _ in range(2):
        one.wait(0.0, threading.Event())
        problems.append(one.problem)
        for _ in range(2):
            found += one.take(10, 0.0)
            problems.append(one.problem)
    assert any("erroneous state" in (problem or "") for problem in problems)
    assert [one.offset for one in found] == [7, 8, 9]
    assert problems[-1] is None


@pytest.mark.parametrize("call", ["assign", "pause"])
def test_a_refused_call_inside_a_rebalance_asks_for_partitions_anew(monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    client = Client()
    one = reader(monkeypatch, client)
    one.wait(0.0, threading.Event())
    client.fail = [call]
    one._on_assign(client, [TopicPartition("t", 0)])
    one.take(10, 0.0)
    assert "erroneous state" in (one.problem or "")


def test_a_sink_hears_of_its_partitions_only_when_its_write_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    client, calls = Client(), list[list[int]]()
    monkeypatch.setattr(group, "_POLL_S", 0.01)
    polled = threading.Event()

    def poll(*_: Any) -> list[Record]:
        if not polled.is_set():
            one._on_revoke(client, [TopicPartition("t", 0)])
        polled.set()
        return []

    monkeypatch.setattr(group, "take", poll)
    monkeypatch.setattr(group, "make_consumer", lambda *_: client)
    one = GroupReader({"bootstrap.servers": "127.0.0.1:1"}, "g", "t", calls.append)  # type: ignore[arg-type]

    def work() -> list[list[int]]:
        assert polled.wait(60)
        return list(calls)

    assert one.during(work) == []
    assert calls == [[]]


def test_an_error_of_the_work_reaches_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    def work() -> None:
        raise TimeoutError("away")

    with pytest.raises(TimeoutError, match="away"):
        reader(monkeypatch, Client()).during(work)


def test_a_member_that_left_during_a_write_gives_the_rest_up_when_the_write_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(group, "_POLL_S", 0.01)
    monkeypatch.setattr(group, "others_of", lambda *_: 1)
    monkeypatch.setattr(group, "take", lambda *_: [])
    monkeypatch.setattr(group, "make_consumer", lambda *_: Client())
    one = GroupReader({"bootstrap.servers": "127.0.0.1:1"}, "g", "t", patience_s=0.05)

    def work() -> None:
        until(lambda: "it has left t to other workers" in (one.problem or ""))
        raise TimeoutError("away")

    with pytest.raises(TimeoutError, match="away"):
        one.during(work)
    assert one.fail(), "others write the rest: it must not be tried again here"
