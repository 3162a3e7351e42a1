"""Exactly-once processing when a call fails while partitions are assigned, or never returns."""

from __future__ import annotations

import secrets
import threading
import time
from typing import Any

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic
from prometheus_client import CollectorRegistry

from streams.kafka import exactly_once
from streams.kafka.exactly_once import ExactlyOnce, TransactionAbortedError, Write
from streams.metrics.roles import AlertMetrics
from streams.roles.loop_thread import LoopThread
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


def test_a_loop_goes_on_and_writes_once_if_a_call_in_its_transaction_never_returns(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """librdkafka waits for ever for offsets to be added to a transaction if the group's coordinator comes back at
    another address at a bad moment. No timeout of the call ends that."""
    hanging, released = threading.Event(), threading.Event()

    class HangsOnce(Producer):  # type: ignore[misc]
        def send_offsets_to_transaction(self, *arguments: Any) -> None:
            if not hanging.is_set():
                hanging.set()
                released.wait()
            super().send_offsets_to_transaction(*arguments)

    monkeypatch.setattr(exactly_once, "Producer", HangsOnce)
    read, written = f"{site.prefix}.read", f"{site.prefix}.written"
    admin = AdminClient(site.connection)
    for made in admin.create_topics([NewTopic(read, 1), NewTopic(written, 1)]).values():
        made.result()
    source = Producer(site.connection)
    for number in range(3):
        source.produce(read, b"%d" % number)
    assert source.flush(PATIENCE_S) == 0

    def step(transactions: ExactlyOnce) -> None:
        if records := transactions.take(1, 0.1):
            transactions.commit([Write(written, None, record.value) for record in records])

    def begin(patience: int) -> ExactlyOnce:
        name = secrets.token_hex(8)
        return ExactlyOnce(site.connection, read, [read], name, lambda _: 1 << 42, lambda _: None, patience=patience)

    loop = LoopThread("copy", begin, step, AlertMetrics(CollectorRegistry()))
    loop.start()
    reader = Consumer({**site.connection, "group.id": "all", "isolation.level": "read_committed"})
    reader.assign([TopicPartition(written, 0, 0)])
    found: list[bytes | None] = []
    try:
        assert hanging.wait(PATIENCE_S)
        deadline = time.monotonic() + PATIENCE_S
        while len(found) < 3 and time.monotonic() < deadline:
            found += [one.value() for one in reader.consume(10, 0.2)]
        found += [one.value() for one in reader.consume(10, 1)]
        assert found == [b"0", b"1", b"2"]
        loop.stop()
    finally:
        released.set()
        loop.stop()
        reader.close()


def take_for(bus: ExactlyOnce, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        bus.take(1, 0.1)
