"""Exactly-once processing when a call fails while partitions are assigned."""

from __future__ import annotations

import threading
import time

import pytest
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from streams.kafka.exactly_once import ExactlyOnce, TransactionAbortedError
from tests.kafka.site import PATIENCE_S, Site

pytestmark = pytest.mark.kafka


def test_a_call_that_fails_during_an_assignment_aborts_and_does_not_crash(site: Site) -> None:
    """The assignment is a callback of librdkafka; a KafkaException that leaves it could not be caught."""
    topic = f"{site.prefix}.read"
    admin = AdminClient(site.connection)
    admin.create_topics([NewTopic(topic, 1)])[topic].result()

    # As the client's own calls raise it: one that Python has made comes through as it is.
    nowhere = Consumer({"bootstrap.servers": "127.0.0.1:1", "group.id": "none", "log_level": 0})

    def away(_topic: str) -> int:
        nowhere.committed([TopicPartition(topic, 0)], 0.1)
        raise AssertionError("there is no broker")

    bus = ExactlyOnce(site.connection, site.prefix, [topic], site.prefix, away, lambda _owned: None)
    try:
        assert bus.start(threading.Event())
        with pytest.raises(TransactionAbortedError, match="committed offsets"):
            take_for(bus, PATIENCE_S)
    finally:
        bus.close()
        nowhere.close()


def take_for(bus: ExactlyOnce, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        bus.take(1, 0.1)
