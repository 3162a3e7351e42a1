"""Calls of Kafka's client that never return."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from confluent_kafka import KafkaError, KafkaException

from enrich.runtime.process import StopServiceError
from streams.kafka import hanging_calls
from streams.kafka.hanging_calls import bounded
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
