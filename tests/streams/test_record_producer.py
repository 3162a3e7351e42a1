"""What the enricher's producer does with what librdkafka reports to its poll thread."""

from __future__ import annotations

import queue
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException

from streams.kafka import producer
from streams.kafka.producer import RecordProducer


class Refused:
    """As confluent_kafka's producer: ``poll`` raises a fatal error once."""

    def __init__(self, _config: dict[str, object], logger: Any) -> None:
        self._fatal = [KafkaError(KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER, "numbers differ", fatal=True)]

    def __len__(self) -> int:
        return 0

    def poll(self, _timeout_s: float) -> int:
        if self._fatal:
            raise KafkaException(self._fatal.pop())
        return 0

    def purge(self) -> None:
        pass


def test_a_fatal_error_is_reported_and_ends_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(producer, "Producer", Refused)
    errors: queue.Queue[str] = queue.Queue()
    # A user without any right is refused as soon as the producer is made, before anything can act on it.
    made = RecordProducer({"bootstrap.servers": "127.0.0.1:1"})
    try:
        made.start(errors.put)
        assert "numbers differ" in errors.get(timeout=240)
        assert made._thread is not None
        assert made._thread.is_alive()
    finally:
        made.close()
