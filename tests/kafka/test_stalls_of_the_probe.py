"""Kafka is frozen, away, moved, or loses topics: the probe's publishers say so, wait idle, and go on by themselves."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest
from confluent_kafka.admin import AdminClient

from enrich.runtime.connection import KafkaSettings
from enrich.runtime.settings import load
from enrich.wire.topics import topics
from probe.export.interval_publisher import AddressIntervalPublisher
from probe.export.publisher import Publisher
from probe.export.spool import Spool
from tests.kafka.batches import make_batch
from tests.kafka.movable import MovableBroker
from tests.kafka.site import until
from tests.probe.export.spooling import append

pytestmark = pytest.mark.kafka

STALL_S = 2.0


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MovableBroker]:
    made = MovableBroker(tmp_path_factory.mktemp("movable"))
    made.start()
    yield made
    made.close()


class Exporter:
    """Both publishers of a probe, and the numbers of what they were given."""

    def __init__(self, broker: MovableBroker, folder: Path) -> None:
        connection = load(KafkaSettings, {"WEIR_KAFKA": broker.address}).connection()
        self.topics = topics(f"t{secrets.token_hex(4)}", 4)
        self.spool = Spool(folder / "spool")
        self.batches = Publisher(self.spool, self.topics.raw, connection, STALL_S)
        self.batches.start()
        self.intervals = AddressIntervalPublisher(self.topics.endpoints, connection, STALL_S)
        self.given = 0

    def give(self, number: int) -> None:
        for _ in range(number):
            append(self.spool, make_batch(self.given * 10, 10))
            self.intervals.publish({b"c1/n1/10.0.0.1/%d" % self.given: b"{}"})
            self.given += 1

    def problems(self) -> tuple[str | None, str | None]:
        return self.batches.problem, self.intervals.problem

    def all_sent(self) -> bool | None:
        return (self.spool.unacked_batches == 0 and self.intervals.published >= self.given) or None

    def wait_until_stalled(self) -> None:
        until(lambda: all(self.problems()) or None, "both to say that they are stalled")
        batches, intervals = self.problems()
        assert "Kafka has acknowledged nothing for" in (batches or "")
        assert "Kafka has acknowledged no address interval for" in (intervals or "")
        assert self.batches.oldest_unacknowledged_s() >= STALL_S

    def wait_until_all_is_well(self) -> None:
        until(self.all_sent, f"{self.given} of each: {self.problems()}")
        until(lambda: self.problems() == (None, None) or None, f"readiness: {self.problems()}")
        assert self.batches.oldest_unacknowledged_s() == 0
        assert not self.batches.failed.is_set()

    def stop(self) -> None:
        self.batches.stop(0)
        self.intervals.stop(0)


@pytest.fixture
def exporter(broker: MovableBroker, tmp_path: Path) -> Iterator[Exporter]:
    made = Exporter(broker, tmp_path)
    made.give(5)
    made.wait_until_all_is_well()
    yield made
    made.stop()


@pytest.mark.timeout(180)
def test_a_frozen_broker_is_seen_and_costs_no_cpu(broker: MovableBroker, exporter: Exporter) -> None:
    with broker.frozen():
        # More than an idempotent producer may have under way: the others wait for its first answer.
        exporter.give(40)
        exporter.wait_until_stalled()
        started, cpu = time.monotonic(), time.process_time()
        time.sleep(4)
        used = (time.process_time() - cpu) / (time.monotonic() - started)
    exporter.wait_until_all_is_well()
    assert used < 0.1, f"{used:.0%} of a core while nothing could be done"


@pytest.mark.timeout(180)
def test_a_broker_that_returns_at_another_address_is_found(broker: MovableBroker, exporter: Exporter) -> None:
    broker.stop()
    exporter.give(20)
    exporter.wait_until_stalled()
    broker.move()
    exporter.wait_until_all_is_well()


@pytest.mark.timeout(180)
def test_topics_that_are_deleted_are_made_again(broker: MovableBroker, exporter: Exporter) -> None:
    admin = AdminClient({"bootstrap.servers": broker.address})
    raw, endpoints = exporter.topics.raw.name, exporter.topics.endpoints.name
    for deleted in admin.delete_topics([raw, endpoints]).values():
        deleted.result(30)
    exporter.give(20)
    exporter.wait_until_all_is_well()
    found = admin.list_topics(timeout=10).topics
    assert len(found[raw].partitions) == 4
    assert endpoints in found


def test_a_stall_replaces_the_producer_and_never_ends_the_probe(
    exporter: Exporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after 5 times and 10 times ``WEIR_STALL``: both steps are the same for the probe."""
    due: list[Literal["rebuild", "restart"]] = ["restart", "rebuild"]
    monkeypatch.setattr(exporter.batches._stall, "next_step", lambda _is_reachable: due.pop() if due else None)
    producer = exporter.batches._producer
    until(lambda: not due or None, "both steps")
    exporter.give(5)
    exporter.wait_until_all_is_well()
    assert exporter.batches._producer is not producer
