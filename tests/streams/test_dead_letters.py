"""What the sender of dead letters does with errors after which its producer cannot go on."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException

from enrich.runtime.process import StopServiceError
from streams.kafka import dead_letters
from streams.kafka.dead_letters import DeadLetters, NoDeadLettersError
from streams.kafka.records import Record

RECORD = Record(0, 7, b"k", b"v", 0)
NO_RIGHT = KafkaError(KafkaError.CLUSTER_AUTHORIZATION_FAILED, "no number", fatal=True)
NO_CLIENT = KafkaError(KafkaError._INVALID_ARG, "no certificate")
FENCED = KafkaError(KafkaError.INVALID_PRODUCER_EPOCH, "fenced", fatal=True)


class Client:
    """As confluent_kafka's producer: ``poll`` raises a fatal error once, at its first call or after some."""

    def __init__(self, fatal: KafkaError | None, polls: int) -> None:
        self._fatal, self._polls = fatal, polls
        self._on_delivery: list[Callable[[Any, Any], None]] = []

    def produce(self, *_: Any, on_delivery: Callable[[Any, Any], None], **_options: Any) -> None:
        self._on_delivery.append(on_delivery)

    def poll(self, _timeout_s: float) -> None:
        self._polls -= 1
        if self._polls > 0:
            return
        if self._fatal is not None:
            raise KafkaException(self._fatal)
        for on_delivery in self._on_delivery:
            on_delivery(None, None)


def sender(monkeypatch: pytest.MonkeyPatch, *made: Client | KafkaError) -> DeadLetters:
    """Return a sender that makes these producers, one after the other."""
    left = iter(made)

    def make(*_: Any, **_options: Any) -> Client:
        found = next(left)
        if isinstance(found, KafkaError):
            raise KafkaException(found)
        return found

    monkeypatch.setattr(dead_letters, "Producer", make)
    return DeadLetters({"bootstrap.servers": "127.0.0.1:1"}, "dead", threading.Event())


@pytest.mark.parametrize("polls", [1, 2, 5])
def test_a_missing_right_and_a_missing_certificate_are_waited_for(monkeypatch: pytest.MonkeyPatch, polls: int) -> None:
    letters = sender(monkeypatch, Client(NO_RIGHT, polls), NO_CLIENT, NO_CLIENT, Client(None, polls))
    for why in ("no number", "no certificate", "no certificate"):
        with pytest.raises(NoDeadLettersError, match=why):
            letters.send("flows", RECORD, "refused", "why")
    assert letters.send("flows", RECORD, "refused", "why")


def test_another_error_after_which_nothing_is_sent_ends_the_service_with_its_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    letters = sender(monkeypatch, Client(FENCED, 2))
    with pytest.raises(StopServiceError, match="dead: fenced"):
        letters.send("flows", RECORD, "refused", "why")
