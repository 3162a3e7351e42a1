"""Calls of Kafka's client that never return."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException, TopicPartition

from enrich.runtime.process import StopServiceError
from streams.kafka import hanging_calls
from streams.kafka.exactly_once import ExactlyOnce
from streams.kafka.group import GroupReader
from streams.kafka.hanging_calls import bounded, close_consumer
from tests.waiting import until


@pytest.fixture
def released() -> Iterator[threading.Event]:
    """Set when the calls that hang may return."""
    event = threading.Event()
    yield event
    event.set()
    until(lambda: all(work.done() for work in hanging_calls._left))


def hang(released: threading.Event) -> None:
    """Let a call hang for longer than its caller waits."""
    with pytest.raises(KafkaException, match="has not returned for") as raised:
        bounded(released.wait, 0.01)
    error = raised.value.args[0]
    assert error.code() == KafkaError._TIMED_OUT
    assert not error.retriable(), "a retry would wait for the same producer"


def test_the_caller_of_a_call_that_hangs_goes_on(released: threading.Event) -> None:
    hang(released)


def test_what_a_call_raises_reaches_its_caller() -> None:
    def fails() -> None:
        raise KafkaException(KafkaError(KafkaError.INVALID_PRODUCER_EPOCH))

    with pytest.raises(KafkaException, match="INVALID_PRODUCER_EPOCH"):
        bounded(fails, 60)


def test_a_process_with_too_many_hanging_calls_ends(released: threading.Event) -> None:
    for _ in range(hanging_calls._MAX_LEFT):
        hang(released)
    with pytest.raises(StopServiceError, match="calls to Kafka hang"):
        bounded(released.wait, 0.01)


def test_calls_that_have_returned_late_do_not_count(released: threading.Event) -> None:
    for _ in range(hanging_calls._MAX_LEFT):
        hang(released)
    released.set()
    until(lambda: all(work.done() for work in hanging_calls._left))
    again = threading.Event()
    try:
        hang(again)
    finally:
        again.set()


class Stuck:
    """A consumer whose `close` returns late, and calls back only then, as librdkafka's does."""

    def __init__(self, released: threading.Event) -> None:
        self._released = released
        self._on_revoke: Any = None

    def subscribe(self, _topics: Sequence[str], *, on_revoke: Any, **_: Any) -> None:
        self._on_revoke = on_revoke

    def close(self) -> None:
        assert self._released.wait(60)
        self._on_revoke(self, [TopicPartition("t", 0)])


@pytest.fixture
def stuck(released: threading.Event, monkeypatch: pytest.MonkeyPatch) -> Stuck:
    monkeypatch.setattr(hanging_calls, "_CLOSE_S", 0.01)
    return Stuck(released)


def test_a_consumer_whose_close_hangs_is_left_behind(stuck: Any) -> None:
    assert not close_consumer(stuck)


def test_a_sink_hears_nothing_of_a_consumer_that_was_left_behind(
    stuck: Stuck, released: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[Sequence[int]] = []
    monkeypatch.setattr("streams.kafka.group.make_consumer", lambda *_: stuck)
    reader = GroupReader({}, "g", "t", heard.append)
    # A write that was given up has left a call behind.
    reader._postponed.append(lambda: heard.append([0]))
    reader.close()
    released.set()
    until(lambda: all(work.done() for work in hanging_calls._left))
    assert heard == []


def test_a_loop_hears_nothing_of_a_consumer_that_was_left_behind(
    stuck: Stuck, released: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[object] = []
    monkeypatch.setattr("streams.kafka.exactly_once.make_consumer", lambda *_: stuck)
    one = ExactlyOnce({"bootstrap.servers": "127.0.0.1:1"}, "g", ["t"], "w", lambda _: 0, heard.append)
    stuck.subscribe(["t"], on_revoke=one._revoke)
    one.close()
    released.set()
    until(lambda: all(work.done() for work in hanging_calls._left))
    assert heard == []
