"""Kafka is frozen, away, moved, or loses topics: the probe's publishers say so, wait idle, and go on by themselves."""

from __future__ import annotations

import contextlib
import secrets
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka.admin import AdminClient, NewTopic

from enrich.runtime.connection import KafkaSettings
from enrich.runtime.settings import load
from enrich.wire.topics import topics
from probe.export import interval_publisher, raw_topic
from tests.kafka.exporter import Exporter
from tests.kafka.movable import MovableBroker
from tests.kafka.site import until

pytestmark = pytest.mark.kafka

STALL_S = 2.0


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MovableBroker]:
    with contextlib.closing(MovableBroker(tmp_path_factory.mktemp("movable"))) as made:
        made.start()
        yield made


class StallingExporter(Exporter):
    """An exporter with topics of its own, whose work soon counts as stalled."""

    def __init__(self, broker: MovableBroker, folder: Path) -> None:
        self.topics = topics(f"t{secrets.token_hex(4)}", 4)
        super().__init__(self.topics, load(KafkaSettings, {"WEIR_KAFKA": broker.address}).connection(), folder, STALL_S)

    def wait_until_stalled(self) -> None:
        until(lambda: all(self.problems()) or None, "both to say that they are stalled")
        batches, intervals = self.problems()
        assert "Kafka has acknowledged nothing for" in (batches or "")
        assert "Kafka has acknowledged no address interval for" in (intervals or "")
        assert self.batches.oldest_unacknowledged_s() >= STALL_S

    def wait_until_all_is_well(self) -> None:
        until(lambda: self.has_sent_all() or None, lambda: f"{self.given} of each: {self.problems()}")
        until(lambda: self.problems() == (None, None) or None, lambda: f"readiness: {self.problems()}")
        assert self.batches.oldest_unacknowledged_s() == 0
        assert not self.batches.failed.is_set()


@pytest.fixture
def exporter(broker: MovableBroker, tmp_path: Path) -> Iterator[StallingExporter]:
    made = StallingExporter(broker, tmp_path)
    try:
        made.give(5)
        made.wait_until_all_is_well()
        yield made
    finally:
        made.stop()


@pytest.mark.timeout(900)
def test_a_topic_whose_creation_is_not_answered_is_made_later(
    broker: MovableBroker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broker freezes between a look at its topics and the creation of a missing one."""
    for module in (raw_topic, interval_publisher):
        monkeypatch.setattr(module, "_ANSWER_S", 1)
    create, attempts = AdminClient.create_topics, threading.Event()
    with contextlib.ExitStack() as stack:
        freeze = stack.enter_context(contextlib.ExitStack())

        def create_frozen(admin: AdminClient, new: list[NewTopic], **options: Any) -> Any:
            if not attempts.is_set():
                attempts.set()
                freeze.enter_context(broker.frozen())
            return create(admin, new, **options)

        monkeypatch.setattr(AdminClient, "create_topics", create_frozen)
        made = StallingExporter(broker, tmp_path)
        stack.callback(made.stop)
        made.give(5)
        assert attempts.wait(60)
        until(lambda: all(made.problems()) or None, "both to say what is wrong")
        freeze.close()
        made.wait_until_all_is_well()


@pytest.mark.timeout(900)
def test_a_frozen_broker_is_seen_and_costs_no_cpu(broker: MovableBroker, exporter: StallingExporter) -> None:
    with broker.frozen():
        # More than an idempotent producer may have under way: the others wait for its first answer.
        exporter.give(40)
        exporter.wait_until_stalled()
        started, cpu = time.monotonic(), time.process_time()
        time.sleep(4)
        used = (time.process_time() - cpu) / (time.monotonic() - started)
    exporter.wait_until_all_is_well()
    assert used < 0.1, f"{used:.0%} of a core while nothing could be done"


@pytest.mark.timeout(900)
def test_a_broker_that_returns_at_another_address_is_found(broker: MovableBroker, exporter: StallingExporter) -> None:
    broker.stop()
    exporter.give(20)
    exporter.wait_until_stalled()
    broker.move()
    exporter.wait_until_all_is_well()


@pytest.mark.timeout(900)
def test_topics_that_are_deleted_are_made_again(broker: MovableBroker, exporter: StallingExporter) -> None:
    admin = AdminClient({"bootstrap.servers": broker.address})
    raw, endpoints = exporter.topics.raw.name, exporter.topics.endpoints.name
    for deleted in admin.delete_topics([raw, endpoints]).values():
        deleted.result(120)
    exporter.give(20)
    exporter.wait_until_all_is_well()
    found = admin.list_topics(timeout=120).topics
    assert len(found[raw].partitions) == 4
    assert endpoints in found


def test_a_stall_replaces_the_producer_and_never_ends_the_probe(
    exporter: StallingExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after 5 times and 10 times ``WEIR_STALL``."""
    due = [True, True]
    monkeypatch.setattr(exporter.batches._stall, "needs_new_clients", lambda _is_reachable: bool(due) and due.pop())
    producer = exporter.batches._producer
    until(lambda: not due or None, "two new producers")
    exporter.give(5)
    exporter.wait_until_all_is_well()
    assert exporter.batches._producer is not producer
