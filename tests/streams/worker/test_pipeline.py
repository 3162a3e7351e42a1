"""Batches through the pipeline, with a producer whose queue fills up. Kafka itself is tested in tests/kafka."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import orjson
import pytest
from prometheus_client import CollectorRegistry

from enrich.index.changes import Follower, Key
from enrich.render.enricher import Records
from enrich.render.merged_batch import MergedBatch
from enrich.render.peer_lookup import Lookup, PeerTable
from enrich.wire.batch import AGGREGATED, CUT, INGRESS, Verdict
from enrich.wire.topics import topics
from streams.kafka.record_columns import RecordColumns
from streams.metrics.roles import EnrichMetrics
from streams.worker.inflight import InFlightTracker, TrackedInput
from streams.worker.pending import PendingVerdicts
from streams.worker.pipeline import Pipeline
from streams.worker.sender import event_time_ms
from tests.kafka.batches import make_batch, make_ends, make_rows

TOPICS = topics("p", 4)


class SmallQueue:
    """A producer with room for three records, which it delivers when it is full."""

    def __init__(self) -> None:
        self.taken: list[tuple[str, bytes, bytes, int, dict[str, bytes]]] = []
        self._waiting: list[Callable[[Any, Any], None]] = []

    def offer(
        self, topic: str, key: bytes, value: bytes, timestamp_ms: int, on_delivery: Any, headers: Any = None
    ) -> bool:
        if len(self._waiting) == 3:
            self.deliver()
            return False
        self.taken.append((topic, key, value, timestamp_ms, dict(headers or ())))
        self._waiting.append(on_delivery)
        return True

    def offer_all(self, topic: str, outgoing: RecordColumns, deliveries: Sequence[Any], start: int) -> int:
        verdicts = list(zip(outgoing.keys, outgoing.values, outgoing.times_ms, deliveries, strict=True))
        for number in range(start, len(verdicts)):
            if not self.offer(topic, *verdicts[number]):  # type: ignore[arg-type]  # no key is None here
                return number
        return len(verdicts)

    def deliver(self) -> None:
        for done in self._waiting:
            done(None, object())
        self._waiting.clear()

    def of(self, topic: str) -> list[bytes]:
        return [value for where, _, value, _, _ in self.taken if where == topic]


class Numbers:
    """Renders each verdict as its number; every third is denied, and nothing is unsettled."""

    def follow(self) -> Follower:
        return Follower()

    def awaited(self, batch: MergedBatch, found: Lookup) -> list[tuple[Key, ...]]:
        return []

    def lookup(self, batch: MergedBatch, *, is_final: bool = False) -> Lookup:
        return Lookup(PeerTable(), np.zeros(len(batch.verdicts), np.int64), None)

    def mark_ambiguous(self, batch: MergedBatch, found: Lookup, until_ns: int) -> None: ...

    def records(self, batch: MergedBatch, lookup_result: Lookup | None = None) -> Records:
        numbers = batch.numbers.tolist()
        return Records(
            [b"shop/web-0"] * len(numbers),
            [b"%d" % n for n in numbers],
            [n % 3 == 0 for n in numbers],
            [1000] * len(numbers),
            batch.owner.tolist(),
        )


class Broken(Numbers):
    """Fails for every batch that contains verdict number 4."""

    def records(self, batch: MergedBatch, lookup_result: Lookup | None = None) -> Records:
        if 4 in batch.numbers:
            raise ZeroDivisionError("a bug")
        return super().records(batch, lookup_result)


def run(*values: bytes | None, **changes: Any) -> tuple[SmallQueue, list[TrackedInput]]:
    """Take the values together; return the producer and the acknowledged inputs."""
    producer, acked = SmallQueue(), list[TrackedInput]()
    enricher = changes.pop("enricher", Numbers())
    pending = PendingVerdicts(enricher, lambda: 1 << 62, 10**9, 10**6, time.time_ns)
    given: dict[str, Any] = {"cluster_id": "c1", "node_of": lambda _uid: "n1", "pending": pending, **changes}

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        tracker = InFlightTracker(1000, 10**6, loop.call_soon_threadsafe, lambda *_: pytest.fail("a record failed"))
        pipeline = Pipeline(TOPICS, producer=producer, metrics=EnrichMetrics(CollectorRegistry()), worker="w",
                            enricher=enricher, **given)  # fmt: skip
        tracked = [tracker.open(2, 77 + number, 10, 880, acked.append) for number in range(len(values))]
        await pipeline.take(list(zip(tracked, values, strict=True)))
        assert not acked, "the last records are still on their way"
        producer.deliver()
        await asyncio.sleep(0)

    asyncio.run(scenario())
    return producer, acked


def test_a_full_queue_loses_nothing_and_keeps_the_order() -> None:
    producer, acked = run(make_batch(0, 50))
    assert producer.of("p.flows") == [b"%d" % n for n in range(50)]
    assert producer.of("p.flows.denied") == [b"%d" % n for n in range(0, 50, 3)]
    assert [(one.partition, one.offset, one.records) for one in acked] == [(2, 77, 67)]


def test_a_batch_that_cannot_be_enriched_becomes_a_dead_letter_and_is_acknowledged() -> None:
    value = make_batch(0, 5)
    producer, acked = run(value, enricher=Broken())
    [(topic, key, body, _, headers), (status_topic, _, status, _, _)] = producer.taken
    assert status_topic == "p.status"
    assert orjson.loads(status)["reason"] == "enrich_failed"
    assert (topic, key, body) == ("p.dead", b"p.verdicts.raw/2/77", value)
    assert headers["reason"] == b"enrich_failed"
    assert b"a bug" in headers["error"]
    assert len(acked) == 1


def test_a_batch_whose_reports_cannot_be_rendered_is_accounted_for() -> None:
    value = make_batch(0, 1, {"lost": {"ring_full": (3, 3)}, "ends": make_ends(make_rows(1), number=4)})
    producer, acked = run(value, enricher=Broken())
    assert producer.of("p.flows") == [b"0"]
    assert producer.of("p.dead") == [value]
    [lost] = [orjson.loads(one) for one in producer.of("p.status")]
    assert (lost["reason"], lost["verdicts"]) == ("ring_full", 3)
    assert len(acked) == 1


def test_a_batch_that_cannot_be_enriched_is_counted_as_lost_once_also_if_it_is_repeated() -> None:
    value = make_batch(0, 5)
    producer, acked = run(value, value, enricher=Broken())
    [lost] = [orjson.loads(one) for one in producer.of("p.status")]
    assert (lost["reason"], lost["first"], lost["verdicts"]) == ("enrich_failed", 0, 5)
    assert len(producer.of("p.dead")) == len(acked) == 2


def test_a_bad_batch_and_a_failing_one_harm_no_other_batch_taken_with_them() -> None:
    foreign = make_batch(0, 2, {"cluster": "c2", "v": 7})
    values = (make_batch(0, 3), foreign, make_batch(3, 3), b"no batch", make_batch(6, 3), make_batch(9, 0))
    producer, acked = run(*values, enricher=Broken())
    assert producer.of("p.flows") == [b"0", b"1", b"2", b"6", b"7", b"8"]
    assert producer.of("p.flows.denied") == [b"0", b"6"]
    dead = {key: (body, headers["reason"]) for topic, key, body, _, headers in producer.taken if topic == "p.dead"}
    assert dead == {
        b"p.verdicts.raw/2/79": (values[2], b"enrich_failed"),
        b"p.verdicts.raw/2/80": (b"no batch", b"no_header"),
    }
    lost, heartbeat = map(orjson.loads, producer.of("p.status"))
    assert (lost["type"], lost["reason"], lost["verdicts"], lost["first"]) == ("lost", "enrich_failed", 3, 3)
    assert heartbeat["type"] == "heartbeat"
    assert [(one.offset, one.records) for one in acked] == [(77, 4), (78, 0), (79, 2), (80, 1), (81, 4), (82, 1)]


def test_a_heartbeat_makes_a_status_record_and_no_flow() -> None:
    producer, acked = run(make_batch(9, 0))
    [(topic, key, body, _, _)] = producer.taken
    assert (topic, key) == ("p.status", b"n1")
    assert orjson.loads(body)["type"] == "heartbeat"
    assert len(acked) == 1


class Revoking(SmallQueue):
    """A producer during whose work on a status record the partition is revoked."""

    pipeline: Pipeline | None = None

    def offer(
        self, topic: str, key: bytes, value: bytes, timestamp_ms: int, on_delivery: Any, headers: Any = None
    ) -> bool:
        if self.pipeline is not None and topic == "p.status":
            self.pipeline.forget([2])
        return super().offer(topic, key, value, timestamp_ms, on_delivery, headers)


def test_a_partition_that_is_revoked_while_its_losses_are_reported_makes_no_dead_letter() -> None:
    producer, enricher = Revoking(), Numbers()
    pending = PendingVerdicts(enricher, lambda: 1 << 62, 10**9, 10**6, time.time_ns)

    async def scenario() -> None:
        tracker = InFlightTracker(1000, 10**6, asyncio.get_running_loop().call_soon_threadsafe, lambda *_: None)
        producer.pipeline = pipeline = Pipeline(
            TOPICS, "c1", enricher, lambda _uid: "n1", producer, EnrichMetrics(CollectorRegistry()), "w", pending
        )
        lost = {"lost": {"ring_full": (3, 3)}}
        await pipeline.take([(tracker.open(2, 77, 1, 88, lambda _: None), make_batch(0, 1, lost))])
        assert pipeline.positions.encode(2, 78) is None

    asyncio.run(scenario())
    assert [orjson.loads(status)["type"] for status in producer.of("p.status")] == ["lost"]
    assert producer.of("p.dead") == []


def test_without_a_cluster_id_any_cluster_is_accepted_and_unknown_pods_are_not_checked() -> None:
    producer, _ = run(make_batch(0, 3, {"cluster": "other"}), cluster_id="", node_of=lambda _uid: "")
    assert len(producer.of("p.flows")) == 3


def test_the_time_of_a_record_is_read_back_to_the_millisecond() -> None:
    assert event_time_ms(b'{"timestamp":"2026-01-02T03:04:05.678901234Z"}') == 1767323045678
    soon = event_time_ms(b'{"timestamp":"2999-01-01T00:00:00.000000000Z"}')
    assert soon < 32472144000000, "never from the future"


@pytest.mark.parametrize("kind", [Verdict.DENY, Verdict.AUDIT | INGRESS])
def test_denials_that_are_not_logged_are_on_the_topic_of_denied_flows_only(kind: int) -> None:
    logged, cut = make_batch(0, 3, verdict=kind), make_batch(3, 3, verdict=kind, flags=CUT | AGGREGATED)
    producer, acked = run(logged, cut, make_batch(6, 1))
    assert producer.of("p.flows") == [b"0", b"1", b"2", b"6"]
    assert producer.of("p.flows.denied") == [b"0", b"6", b"3", b"4", b"5"]
    assert [(one.offset, one.records) for one in acked] == [(77, 4), (78, 3), (79, 2)]


def test_an_allow_is_logged_with_any_flags() -> None:
    producer, _ = run(make_batch(1, 2, verdict=Verdict.ALLOW, flags=CUT))
    assert producer.of("p.flows") == [b"1", b"2"]
    assert producer.of("p.flows.denied") == []
