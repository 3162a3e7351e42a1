"""The address history that a worker reads at its start: what it keeps of a day of intervals."""

from __future__ import annotations

import time

import pytest
from msgspec.structs import replace
from prometheus_client import CollectorRegistry

from enrich.index.cluster import KINDS, Cluster
from enrich.model import Pod
from enrich.wire.address_interval import AddressInterval, encode_interval
from streams.kafka.records import Record
from streams.metrics.roles import EnrichMetrics
from streams.worker import address_history
from streams.worker.address_history import AddressHistory
from tests.waiting import until

S = 1_000_000_000
HOUR = 3600 * S


def interval(number: int, last: int | None) -> AddressInterval:
    first = (last or time.time_ns()) - 60 * S
    return AddressInterval(
        cluster="c1", node="n1", ip=f"10.0.{number >> 8}.{number & 255}", uid=f"u{number}", namespace="shop",
        pod=f"p{number}", first=first, start=first, end=last, last=last,
    )  # fmt: skip


class Topic:
    """A reader of these intervals."""

    def __init__(self, intervals: list[AddressInterval]) -> None:
        self._left = [Record(0, offset, one.key, encode_interval(one), 0) for offset, one in enumerate(intervals)]
        self._end = len(intervals)

    def bounds(self) -> dict[int, tuple[int, int]]:
        return {0: (0, self._end)}

    def start(self, offsets: dict[int, int]) -> None: ...

    def take(self, max_records: int, wait_s: float) -> list[Record]:
        taken, self._left = self._left[:max_records], self._left[max_records:]
        if not taken:
            time.sleep(wait_s)
        return taken

    def close(self) -> None: ...


def test_of_a_day_of_intervals_a_worker_keeps_those_of_the_retention() -> None:
    now = time.time_ns()
    old = [interval(number, now - (2 + number % 22) * HOUR) for number in range(2000)]
    kept = [interval(3000, now - HOUR // 2), interval(3001, None)]
    cluster = Cluster(tail_s=3600.0)
    cluster.replace_all({kind: [] for kind in KINDS})
    topic = Topic([*old, *kept])
    history = AddressHistory(lambda: topic, cluster, "c1", EnrichMetrics(CollectorRegistry()))
    history.start()
    try:
        assert history.loaded.wait(240)
    finally:
        history.stop()
    assert cluster.addresses.size() == 2 * len(kept), "each is an address and a pod"
    named = [cluster.addresses.owner_at(one.ip, one.start + S, "n1").pod for one in (old[0], *kept)]
    assert [pod and pod.name for pod in named] == [None, "p3000", "p3001"]
    assert cluster.addresses.complete_since_ns() > old[0].start, "and so it says that it does not know"


@pytest.mark.parametrize("behind", [0, 1], ids=["before the end", "behind the end"])
def test_what_a_later_record_of_the_topic_corrects_is_not_called_forged(
    capsys: pytest.CaptureFixture[str], behind: int
) -> None:
    """Compaction is late: the topic has the first record of a pod whose address another node's pod has today. The later
    record may also come after the end was noted, with the last records before it."""
    now = time.time_ns()
    taken = Pod("shop", "new", "u-new", {}, ("10.0.0.1", "10.0.0.2"), "n2", started_ns=now - HOUR)
    ended = replace(interval(1, now - 2 * HOUR), end=None, last=None), interval(1, now - 2 * HOUR)
    forged = interval(2, None)
    cluster, registry = Cluster(tail_s=24 * 3600.0), CollectorRegistry()
    cluster.replace_all({kind: [] for kind in KINDS} | {Pod: [taken]})

    class Slow(Topic):
        def bounds(self) -> dict[int, tuple[int, int]]:
            return {0: (0, self._end - behind)}

        def take(self, max_records: int, wait_s: float) -> list[Record]:
            return super().take(1 + 2 * behind, wait_s)

    history = AddressHistory(lambda: Slow([ended[0], forged, ended[1]]), cluster, "c1", EnrichMetrics(registry))
    history.start()
    try:
        assert history.loaded.wait(240)
    finally:
        history.stop()
    refused = registry.get_sample_value(
        "kubeweir_streams_refused_address_intervals_total", {"reason": "forged_interval"}
    )
    assert refused == 1
    said = capsys.readouterr().out
    assert "pod shop/p2 has 10.0.0.2" in said
    assert "shop/p1" not in said
    assert cluster.addresses.owner_at("10.0.0.1", ended[1].start + S, "n1").pod is not None


@pytest.mark.parametrize("limit", ["_MAX_DOUBTFUL", "_MAX_DOUBTFUL_BYTES"])
def test_no_more_records_wait_for_a_later_one_than_fit(monkeypatch: pytest.MonkeyPatch, limit: str) -> None:
    monkeypatch.setattr(address_history, limit, 0)
    forged, registry = interval(1, None), CollectorRegistry()
    cluster = Cluster(tail_s=3600.0)
    other = Pod("shop", "other", "u-other", {}, (forged.ip,), "n2", started_ns=forged.start - HOUR)
    cluster.replace_all({kind: [] for kind in KINDS} | {Pod: [other]})
    history = AddressHistory(lambda: Topic([]), cluster, "c1", EnrichMetrics(registry))
    history._apply(Record(0, 0, forged.key, encode_interval(forged), 0), is_last=False)
    name = "kubeweir_streams_refused_address_intervals_total"
    assert registry.get_sample_value(name, {"reason": "forged_interval"}) == 1
    assert history._doubtful == {}


def test_a_topic_that_never_rests_is_synced_to_what_had_time_to_arrive() -> None:
    class Busy(Topic):
        def take(self, max_records: int, wait_s: float) -> list[Record]:
            one = interval(1, None)
            self._end += 1
            time.sleep(0.001)
            return [Record(0, self._end, one.key, encode_interval(one), 0)]

    cluster = Cluster(tail_s=3600.0)
    cluster.replace_all({kind: [] for kind in KINDS})
    history = AddressHistory(lambda: Busy([]), cluster, "c1", EnrichMetrics(CollectorRegistry()))
    history.start()
    try:
        began = time.time_ns()
        until(lambda: history.synced_until_ns() > began)
        assert history.synced_until_ns() < time.time_ns() - S // 25
    finally:
        history.stop()


def test_intervals_are_evicted_while_the_watch_changes_nothing() -> None:
    now = time.time_ns()
    cluster = Cluster(tail_s=60.0, now_ns=lambda: now)
    for number in range(50):
        cluster.addresses.add_interval(interval(number, now))
        now += 10 * S
    assert cluster.addresses.size() <= 2 * 8


def test_an_end_that_is_told_long_after_it_ends_the_interval() -> None:
    now = time.time_ns()
    cluster = Cluster(tail_s=60.0, now_ns=lambda: now)
    cluster.addresses.add_interval(interval(1, None))
    assert cluster.addresses.owner_at("10.0.0.1", now, "n1").pod is not None
    now += HOUR
    cluster.addresses.add_interval(interval(1, now - HOUR // 2))
    assert cluster.addresses.owner_at("10.0.0.1", now, "n1").pod is None
    assert cluster.addresses.size() == 0


def test_intervals_that_are_dropped_because_there_are_too_many_are_counted() -> None:
    now = time.time_ns()
    cluster, registry = Cluster(tail_s=3600.0), CollectorRegistry()
    cluster.addresses.ended.max_of_node = 10
    topic = Topic([interval(number, now - HOUR // 2 + number * S) for number in range(25)])
    history = AddressHistory(lambda: topic, cluster, "c1", EnrichMetrics(registry))
    history.start()
    try:
        assert history.loaded.wait(240)
    finally:
        history.stop()
    name = "kubeweir_streams_dropped_address_intervals_total"
    assert [registry.get_sample_value(name, {"limit": limit}) for limit in ("node", "index")] == [15, 0]
    assert cluster.addresses.size() == 2 * 10
