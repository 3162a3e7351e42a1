"""A part of a stream that is read and written in transactions, where taking over partitions fails."""

from __future__ import annotations

import threading
import time

import pytest
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from streams.kafka.exactly_once import ExactlyOnce, TransactionAbortedError
from tests.kafka.site import PATIENCE_S, Site

pytestmark = pytest.mark.kafka


def test_a_call_that_fails_while_partitions_are_taken_over_is_told_and_ends_nobody(site: Site) -> None:
    """The client calls back for that, and what it makes of an exception there nobody can catch."""
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
