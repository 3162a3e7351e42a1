"""Pending verdicts: how long they wait, which they hold back, their order, and when their inputs are acknowledged."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from enrich.index.cluster import KINDS, Change, Cluster
from enrich.model import Pod
from enrich.render.enricher import Enricher, Records
from enrich.render.merged_batch import MergedBatch
from enrich.render.peer_lookup import Lookup
from enrich.wire.address_interval import AddressInterval
from enrich.wire.batch import Batch, decode_batch
from enrich.wire.topics import topics
from streams.kafka.record_columns import RecordColumns
from streams.metrics.roles import EnrichMetrics
from streams.worker.inflight import InFlightTracker, TrackedInput
from streams.worker.pending import PendingVerdicts
from streams.worker.pipeline import Pipeline
from tests.enrich.flows import CLOCK, make_batch

S = 1_000_000_000
WEB = Pod("shop", "web-1", "uid-web", {}, ("10.0.0.1",), "n1", started_ns=CLOCK - 100 * S)
LATE = Pod(
    "shop", "late", "uid-late", {}, ("10.0.0.9",), "n2", started_ns=CLOCK - 10 * S, acknowledged_ns=CLOCK - 10 * S
)
REFS = {"7": {"namespace": "shop", "pod": "web-1", "uid": "uid-web"}, "9": {"namespace": "x", "pod": "y", "uid": ""}}


class Site:
    """A pipeline with a clock and an index that the test sets. Everything it sends is acknowledged at once."""

    def __init__(self, max_bytes: int = 10**6) -> None:
        self.now, self.until = CLOCK + 10 * S, 1 << 62
        self.reported = 1 << 62
        self.sent: list[dict[str, Any]] = []
        self.single: list[tuple[str, bytes]] = []
        """Topic and value of each record that is not one of a verdict."""
        self.acked: list[int] = []
        self.cluster = Cluster(now_ns=lambda: self.now)
        self.cluster.replace_all({**{kind: [] for kind in KINDS}, Pod: [WEB]})
        self.cluster.addresses.set_complete_since(0)
        enricher = self.enricher = Enricher(self.cluster, now_ns=lambda: self.now)
        self.pending = PendingVerdicts(
            enricher, lambda: self.until, 2 * S, max_bytes, lambda: self.now, lambda: self.reported
        )
        self.tracker = InFlightTracker(10**6, 10**9, lambda step: step(), lambda *_: pytest.fail("refused"))
        metrics = EnrichMetrics(CollectorRegistry())
        self.metrics = metrics
        self.pipeline = Pipeline(topics("p", 1), "", enricher, lambda _uid: "", self, metrics, "w", self.pending)
        self.offset = 0
        self.on_send: Callable[[], None] = lambda: None

    def offer(self, topic: str, key: bytes, value: bytes, at: int, on_delivery: Any, headers: Any = None) -> bool:
        self.single.append((topic, value))
        on_delivery(None, None)
        return True

    def offer_all(self, topic: str, outgoing: RecordColumns, deliveries: Sequence[Any], start: int) -> int:
        self.on_send()
        for value, delivered in zip(outgoing.values, deliveries, strict=True):
            if topic == "p.flows":
                self.sent.append(orjson.loads(value))
            delivered(None, None)
        return len(deliveries)

    def take(self, *verdicts: dict[str, Any], first: int = 100, **header: Any) -> None:
        self.take_together(make_batch(*verdicts, first=first, **header))

    def take_together(self, *batches: Batch, partition: int = 0) -> None:
        inputs = []
        for batch in batches:
            tracked = self.tracker.open(partition, self.offset, len(batch.verdicts), 88, self._ack)
            self.offset += 1
            inputs.append((tracked, batch.encode()))
        asyncio.run(self.pipeline.take(inputs))

    def _ack(self, tracked: TrackedInput) -> None:
        self.acked.append(tracked.offset)

    def release(self) -> list[int]:
        asyncio.run(self.pipeline.release())
        return self.numbers()

    def numbers(self) -> list[int]:
        return [int(record["id"].rpartition("-")[2]) for record in self.sent]


def verdict(age_s: float = 0.0, **fields: Any) -> dict[str, Any]:
    """A verdict of web-1 to an address, ``age_s`` old when the test begins."""
    return {"time_ns": int((10 - age_s) * S), "destination": "203.0.113.9", **fields}


def test_a_verdict_about_an_unknown_pod_waits_until_the_pod_is_known() -> None:
    site = Site()
    site.take(verdict(0.5, destination=LATE.ips[0]))
    assert site.release() == []
    assert site.acked == []
    site.now += S
    site.cluster.apply([Change("set", LATE)])
    assert site.release() == [100]
    assert site.sent[0]["dest"]["pod_name"] == "late"
    assert site.acked == [0]


def test_a_verdict_is_sent_unnamed_when_its_attribution_wait_is_over() -> None:
    site = Site()
    site.take(verdict(0.5, destination="10.0.0.77"))
    site.now += int(1.4 * S)
    assert site.release() == []
    site.now += int(0.2 * S)
    assert site.release() == [100]
    assert site.sent[0]["dest"] == {"instance": "10.0.0.77"}
    assert site.metrics.pending_verdicts.labels("late")._value.get() == 1


def test_old_verdicts_and_addresses_far_from_pods_do_not_wait() -> None:
    site = Site()
    site.take(verdict(3, destination="10.0.0.77"), verdict(0, destination="203.0.113.7"))
    assert site.numbers() == [100, 101]
    assert site.acked == [0]


def test_a_pending_verdict_holds_back_later_ones_of_its_own_pod_only() -> None:
    site = Site()
    own, other = {"endpoint": 7}, {"endpoint": 9}
    site.take(verdict(0.5, **own), verdict(0.4, destination="10.0.0.77", **own), verdict(0.3, **other), verdict(0.3,
    **own),
              endpoints=REFS)  # fmt: skip
    assert site.numbers() == [100, 102]
    site.take(verdict(0.2, **own), verdict(0.2, **other), first=104, endpoints=REFS)
    assert site.numbers() == [100, 102, 105]
    site.take(verdict(0.2, **own), first=900, ring="another", endpoints=REFS)
    assert site.numbers() == [100, 102, 105, 900]
    site.now += 2 * S
    assert site.release() == [100, 102, 105, 900, 101, 103, 104]
    assert site.acked == [0, 1, 2]


def test_a_verdict_waits_until_the_index_is_synced_up_to_its_time() -> None:
    site = Site()
    site.until = site.now
    site.take(verdict(1), verdict(0.05, endpoint=9), verdict(0), endpoints=REFS)
    assert site.numbers() == [100]
    site.until = site.now = site.now + S // 5
    assert site.release() == [100, 101, 102]


def interval_of_late(end: int | None) -> AddressInterval:
    """What the probe of n2 publishes of the pod late."""
    return AddressInterval(
        cluster="", node="n2", ip=LATE.ips[0], uid=LATE.uid, namespace="shop", pod="late", first=LATE.started_ns,
        start=LATE.started_ns, end=end, last=end,
    )  # fmt: skip


def test_a_verdict_waits_until_what_probes_have_published_up_to_its_time_is_read() -> None:
    """The API server has fallen silent, as if it had nothing to say; only the probe says that the pod has ended."""
    site = Site()
    site.cluster.apply([Change("set", LATE)])
    site.cluster.addresses.add_interval(interval_of_late(None))
    site.reported = site.now
    site.take(verdict(3, destination=LATE.ips[0]), verdict(0, destination=LATE.ips[0]))
    assert site.numbers() == [100]
    site.cluster.addresses.add_interval(interval_of_late(site.now - 2 * S))
    site.reported = site.now = site.now + S // 5
    # No known pod has the address now, so its next pod is waited for.
    assert site.release() == [100]
    site.reported = site.now = site.now + 2 * S
    assert site.release() == [100, 101]
    assert [record["dest"].get("pod_name") for record in site.sent] == ["late", None]


def test_what_the_api_server_says_is_enough_where_no_interval_is_read_for_long() -> None:
    site = Site()
    site.cluster.apply([Change("set", LATE)])
    site.reported = 0
    site.take(verdict(0.5, destination=LATE.ips[0]))
    site.now += S
    assert site.release() == []
    site.now += S
    assert site.release() == [100]
    assert site.sent[0]["dest"]["pod_name"] == "late"
    assert site.metrics.pending_verdicts.labels("late")._value.get() == 1


def test_nobody_is_named_beyond_what_the_index_is_synced_to() -> None:
    site = Site()
    site.cluster.apply([Change("set", LATE)])
    site.until = site.now - 5 * S
    site.take(verdict(1, destination=LATE.ips[0]), verdict(1), verdict(7, destination=LATE.ips[0], endpoint=8))
    site.now += 2 * S
    site.release()
    ends = {int(record["id"].rpartition("-")[2]): record["dest"] for record in site.sent}
    assert ends[100] == {"instance": LATE.ips[0], "ambiguous": True}, "the pod may have disappeared since"
    assert ends[101] == {"instance": "203.0.113.9"}
    assert ends[102]["pod_name"] == "late"


class Counted:
    """Keeps the records whose pairs it is to count."""

    def __init__(self) -> None:
        self.records: list[dict[str, Any]] = []

    def count(self, _inputs: Sequence[TrackedInput], records: Records) -> None:
        self.records += [orjson.loads(value) for value in records.values]

    def finish(self, tracked: TrackedInput) -> None: ...


def test_what_the_index_learns_while_pairs_are_looked_up_makes_no_name_sure(monkeypatch: pytest.MonkeyPatch) -> None:
    site = Site()
    counted = site.pipeline.pairs = Counted()
    site.cluster.apply([Change("set", LATE)])
    site.until = site.now - 5 * S
    lookup = Enricher.lookup

    def learning(enricher: Enricher, batch: MergedBatch, *, is_final: bool = False) -> Lookup:
        found = lookup(enricher, batch, is_final=is_final)
        site.until = 1 << 62
        return found

    monkeypatch.setattr(Enricher, "lookup", learning)
    batch = make_batch(verdict(1, destination=LATE.ips[0]), verdict(7, destination=LATE.ips[0]))
    site.pipeline.count_only(site.tracker.open(0, 0, 2, 88, site._ack), batch.encode())
    assert [one["dest"].get("pod_name") for one in counted.records] == [None, "late"]
    assert site.acked == [0]


def test_an_input_that_is_only_counted_says_that_it_could_not_be(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> Lookup:
        raise ValueError("a bug")

    site = Site()
    site.pipeline.pairs = Counted()
    monkeypatch.setattr(Enricher, "lookup", fail)
    tracked = site.tracker.open(0, 0, 1, 88, site._ack)
    site.pipeline.count_only(tracked, make_batch(verdict(1, destination=LATE.ips[0])).encode())
    assert tracked.uncounted
    assert site.acked == [0]


def test_a_pending_verdict_is_looked_up_again_only_when_what_it_waits_for_changes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    site = Site()
    unknown = {**REFS, "8": {"namespace": "shop", "pod": "new", "uid": "uid-new"}}
    site.take(verdict(0.5, destination=LATE.ips[0]), verdict(0.4, destination="10.0.0.77", endpoint=9),
              verdict(0.3, endpoint=8), endpoints=unknown)  # fmt: skip
    assert len(site.pending) == 1
    looked_up: list[list[int]] = []
    lookup = Enricher.lookup

    def noted(enricher: Enricher, batch: MergedBatch, *, is_final: bool = False) -> Lookup:
        looked_up.append(batch.numbers.tolist())
        return lookup(enricher, batch, is_final=is_final)

    monkeypatch.setattr(Enricher, "lookup", noted)
    others = [Pod("shop", f"p{number}", f"u{number}", {}, (f"10.0.0.{100 + number}",), "n3") for number in range(50)]
    for other in others:
        site.cluster.apply([Change("set", other)])
        assert site.release() == []
    assert looked_up == []
    site.cluster.apply([Change("set", LATE)])
    assert site.release() == [100]
    site.cluster.apply([Change("set", Pod("shop", "new", "uid-new", {}, ("10.0.0.8",), "n1"))])
    assert site.release() == [100, 102]
    assert looked_up == [[100], [100], [102], [102]], "once to see whether it is settled, once to render it"
    site.now += 2 * S
    assert site.release() == [100, 102, 101]


def test_a_verdict_that_waited_for_the_index_waits_on_if_its_pod_is_not_certain_then() -> None:
    site = Site()
    site.until = site.now
    site.take(verdict(0, destination=WEB.ips[0], endpoint=9), endpoints=REFS)
    successor = Pod("shop", "web-2", "uid-next", {}, WEB.ips, "n1", started_ns=site.now, acknowledged_ns=site.now)
    site.cluster.apply([Change("delete", WEB), Change("set", successor)], site.now - S)
    site.until = site.now = site.now + S // 5
    assert site.release() == []
    site.now += 2 * S
    assert site.release() == [100]
    assert site.sent[0]["dest"] == {"instance": WEB.ips[0], "ambiguous": True}


@pytest.mark.parametrize("waiting", [True, False])
def test_a_verdict_too_old_to_wait_is_not_named_beyond_what_the_index_knows(*, waiting: bool) -> None:
    site = Site()
    site.cluster.apply([Change("set", LATE)])
    site.until = site.now - 5 * S
    old = verdict(3, destination=LATE.ips[0], endpoint=8), verdict(6, destination=LATE.ips[0], endpoint=8)
    site.take(*old, *[verdict(0)] * waiting)
    ends = [record["dest"] for record in site.sent]
    assert ends[0] == {"instance": LATE.ips[0], "ambiguous": True}, "the pod may have disappeared since"
    assert ends[1]["pod_name"] == "late"
    assert (len(ends), len(site.pending)) == (2, int(waiting))


def test_verdicts_sent_beside_pending_ones_are_looked_up_once(monkeypatch: pytest.MonkeyPatch) -> None:
    looked_up: list[int] = []
    lookup = Enricher.lookup

    def counted(enricher: Enricher, batch: MergedBatch) -> Lookup:
        looked_up.append(len(batch.verdicts))
        return lookup(enricher, batch)

    monkeypatch.setattr(Enricher, "lookup", counted)
    others = [verdict(1, destination=to, endpoint=9) for to in ("203.0.113.9", WEB.ips[0], "203.0.113.8")]
    beside, alone = Site(), Site()
    beside.take(others[0], verdict(1, destination=LATE.ips[0]), *others[1:], endpoints=REFS)
    alone.take(*others, endpoints=REFS)
    assert looked_up == [4, 3]
    assert beside.numbers() == [100, 102, 103]
    numbered = ("id", "number")
    assert [strip(record, numbered) for record in beside.sent] == [strip(record, numbered) for record in alone.sent]


def strip(record: dict[str, Any], fields: tuple[str, ...]) -> dict[str, Any]:
    return {name: value for name, value in record.items() if name not in fields}


def test_a_clock_that_is_ahead_makes_no_verdict_wait_longer() -> None:
    site = Site()
    site.until = site.now
    site.take(verdict(-3600))
    site.now += 2 * S
    assert site.release() == [100]


def test_when_too_many_bytes_wait_the_oldest_are_sent() -> None:
    site = Site(max_bytes=88 * 5)
    for first in (100, 200, 300):
        site.take(*[verdict(0, destination="10.0.0.77")] * 3, first=first, ring=str(first))
    assert site.release() == [100, 101, 102, 200, 201, 202]
    assert site.pending.bytes == 88 * 3
    assert site.metrics.pending_verdicts.labels("full")._value.get() == 6


def waiting_in_three_parts() -> Site:
    """Three batches of three rings, each from a partition of its own, of which one verdict each waits for a pod."""
    site = Site()
    for number in range(3):
        waits, goes = verdict(0.5, destination=LATE.ips[0]), verdict(0.5, endpoint=9)
        batch = make_batch(goes, waits, first=100 * number, node=f"n{number}", ring=f"r{number}", endpoints=REFS)
        site.take_together(batch, partition=number)
    assert (site.numbers(), len(site.pending)) == ([0, 100, 200], 3)
    return site


def test_what_several_parts_release_together_is_looked_up_and_sent_together(monkeypatch: pytest.MonkeyPatch) -> None:
    site = waiting_in_three_parts()
    final: list[list[int]] = []
    lookup = Enricher.lookup

    def noted(enricher: Enricher, batch: MergedBatch, *, is_final: bool = False) -> Lookup:
        if is_final:
            final.append(batch.numbers.tolist())
        return lookup(enricher, batch, is_final=is_final)

    monkeypatch.setattr(Enricher, "lookup", noted)
    site.cluster.apply([Change("set", LATE)])
    assert site.release()[3:] == [1, 101, 201]
    assert final == [[1, 101, 201]]
    assert [(one["node_name"], one["id"].partition("-")[0], one["dest"]["pod_name"]) for one in site.sent[3:]] == [
        (f"n{number}", f"r{number}", "late") for number in range(3)
    ]
    assert site.acked == [0, 1, 2]
    assert (site.pending.bytes, len(site.tracker)) == (0, 0)


def test_of_a_partition_revoked_during_a_release_nothing_more_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    site = waiting_in_three_parts()
    monkeypatch.setattr("streams.worker.released._MERGE_VERDICTS", 1)

    def revoke() -> None:
        site.tracker.forget([1])
        site.pipeline.forget([1])

    site.on_send = revoke
    site.cluster.apply([Change("set", LATE)])
    assert site.release()[3:] == [1, 201]
    assert site.acked == [0, 2]


def test_verdicts_of_a_revoked_partition_are_dropped() -> None:
    site = Site()
    site.take(verdict(0, destination="10.0.0.77"))
    site.pipeline.forget([0])
    site.now += 5 * S
    assert site.release() == []
    assert (len(site.pending), site.pending.bytes, site.acked) == (0, 0, [])


def test_a_part_of_a_batch_is_a_batch() -> None:
    batch = make_batch(*[verdict(n) for n in range(6)], first=50)
    part = decode_batch(batch.pick(np.array([0, 1, 4])).encode())
    assert part.numbers().tolist() == [50, 51, 54]
    assert part.verdicts["time_ns"].tolist() == batch.verdicts["time_ns"][[0, 1, 4]].tolist()


_rows = st.lists(
    st.tuples(st.sampled_from((7, 8, 9)), st.sampled_from(("10.0.0.77", "10.0.0.9", "203.0.113.9")), st.integers(0, 3)),
    min_size=1,
    max_size=8,
)


_batches = st.lists(_rows, min_size=1, max_size=3)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(_batches, st.integers(0, 1200), st.booleans()), max_size=8))
def test_every_verdict_is_sent_once_and_those_of_a_pod_in_order(steps: list[Any]) -> None:
    site = Site(max_bytes=88 * 20)
    owners: list[int] = []
    for batches, wait_ms, known in steps:
        age = 10 - (site.now - CLOCK) / S
        made = []
        for verdicts in batches:
            made.append(
                make_batch(
                    *[verdict(age + back, destination=to, endpoint=own) for own, to, back in verdicts],
                    first=len(owners),
                )
            )
            owners += [own for own, _, _ in verdicts]
        site.take_together(*made)
        site.now += wait_ms * 1_000_000
        if known:
            site.cluster.apply([Change("set", LATE)])
        site.release()
    site.now += 10 * S
    numbers = site.release()
    assert sorted(numbers) == list(range(len(owners)))
    for endpoint in (7, 8, 9):
        own = [number for number in numbers if owners[number] == endpoint]
        assert own == sorted(own)
    assert site.acked == list(range(sum(len(batches) for batches, _, _ in steps)))
    assert (len(site.pending), site.pending.bytes) == (0, 0)


def test_a_pending_verdict_holds_back_no_pod_of_another_ring() -> None:
    site = Site()
    site.take_together(
        make_batch(verdict(0.5, destination="10.0.0.77"), first=100),
        make_batch(verdict(0.4), first=500, ring="another"),
        make_batch(verdict(0.3), first=101),
    )
    assert site.numbers() == [500]
    assert site.acked == [], "offsets are acknowledged in order"
    site.now += 2 * S
    assert site.release() == [500, 100, 101]
    assert site.acked == [0, 1, 2]


def test_pending_verdicts_that_cannot_be_enriched_are_dead_letters_and_reported_as_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    site = Site()
    site.take_together(
        make_batch(verdict(3), verdict(0.5, destination=LATE.ips[0]), verdict(0.4), first=100, ring="one"),
        make_batch(verdict(0.3), first=500, ring="another"),
        make_batch(verdict(0.2, destination=LATE.ips[0]), first=501, ring="another"),
    )
    assert site.numbers() == [100, 500]

    def fail(*_: Any) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(site.enricher, "mark_ambiguous", fail)
    site.now += 2 * S
    assert site.release() == [100, 500]
    letters = [decode_batch(value) for topic, value in site.single if topic == "p.dead"]
    assert [(one.header.ring, one.numbers().tolist()) for one in letters] == [("one", [101, 102]), ("another", [501])]
    statuses = [orjson.loads(value) for topic, value in site.single if topic == "p.status"]
    assert [(one["type"], one["reason"], one["ring"], one["first"], one["verdicts"]) for one in statuses] == [
        ("lost", "enrich_failed", "one", 101, 2), ("lost", "enrich_failed", "another", 501, 1)
    ]  # fmt: skip
    assert site.metrics.lost_verdicts.labels("enrich_failed")._value.get() == 3
    assert site.acked == [0, 1, 2]
