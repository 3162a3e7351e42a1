"""Address intervals that cannot be true are refused, and those of a busy node are not."""

from __future__ import annotations

from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from enrich.index.cluster import KINDS, Change, Cluster
from enrich.index.forged import why_forged, why_forged_end
from enrich.model import Node, Pod, Service
from enrich.wire.address_interval import AddressInterval, decode_interval_key, encode_interval
from streams.kafka.records import Record
from streams.metrics.roles import EnrichMetrics
from streams.worker.address_history import AddressHistory

S = 1_000_000_000
NOW = 1_800_000_000 * S


def pod(name: str, ip: str, node: str, started_s: int = 1000) -> Pod:
    return Pod("shop", name, f"uid-{name}", {}, (ip,), node, started_ns=NOW - started_s * S)


def claim(
    name: str, ip: str, node: str, start_s: float = 500, end_s: float | None = None, **more: str
) -> AddressInterval:
    end = None if end_s is None else NOW - int(end_s * S)
    start = NOW - int(start_s * S)
    given: dict[str, Any] = {"uid": f"uid-{name}", "namespace": "shop", "pod": name, **more}
    return AddressInterval(cluster="c1", node=node, ip=ip, first=start, start=start, end=end, last=end, **given)


@pytest.fixture
def cluster() -> Cluster:
    made = Cluster(now_ns=lambda: NOW)
    made.replace_all({**{kind: [] for kind in KINDS}, Pod: [pod("web-0", "10.0.0.10", "n1")]})
    made.apply([
        Change("set", Node("n2", "uid-n2", {}, ("192.0.2.2",))),
        Change("set", Service("shop", "api", "uid-api", ("10.96.0.9",))),
    ])  # fmt: skip
    return made


@pytest.mark.parametrize(
    ("interval", "said"),
    [
        (claim("web-0", "10.0.0.10", "n2"), "runs on node n1"),
        (claim("web-0", "10.0.0.66", "n2"), "runs on node n1"),
        (claim("web-0", "10.0.0.10", "n1", pod="till-0"), "the pod of this UID is shop/web-0"),
        (claim("web-0", "10.0.0.10", "n1", namespace="bank"), "the pod of this UID is shop/web-0"),
        (claim("x", "10.0.0.10", "n2"), "pod shop/web-0 on node n1 had it then"),
        (claim("x", "10.0.0.10", "n2", 5000, 20), "pod shop/web-0 on node n1 had it then"),
        (claim("x", "192.0.2.2", "n1"), "an address of node n2"),
        (claim("x", "10.96.0.9", "n1"), "the cluster IP of Service shop/api"),
    ],
)
def test_a_claim_against_what_the_api_server_says_is_refused(
    cluster: Cluster, interval: AddressInterval, said: str
) -> None:
    assert said in (why_forged(cluster, interval) or "")


@pytest.mark.parametrize(
    "interval",
    [
        claim("web-0", "10.0.0.10", "n1"),
        claim("web-0", "10.0.0.11", "n1"),
        claim("x", "10.0.0.10", "n1"),
        claim("x", "10.0.0.10", "n2", 5000, 1200),
        claim("x", "10.0.0.77", "n3"),
        # The address of a node or a Service may have been a pod's before.
        claim("x", "192.0.2.2", "n1", 5000, 1200),
        claim("x", "10.96.0.9", "n1", 5000, 1200),
        # It ended when the other's began, by another clock.
        claim("x", "10.0.0.10", "n2", 5000, 997),
    ],
)
def test_a_claim_that_may_be_true_is_taken(cluster: Cluster, interval: AddressInterval) -> None:
    assert why_forged(cluster, interval) is None


def test_a_pod_of_which_the_start_is_not_known_counts_for_claims_without_an_end(cluster: Cluster) -> None:
    cluster.replace_all({Pod: [Pod("shop", "db-0", "uid-db-0", {}, ("10.0.0.30",), "n1")]})
    assert why_forged(cluster, claim("x", "10.0.0.30", "n2", 5000, 1200)) is None
    assert "pod shop/db-0 on node n1" in (why_forged(cluster, claim("x", "10.0.0.30", "n2")) or "")


def test_a_deletion_is_for_the_nodes_own_interval(cluster: Cluster) -> None:
    assert "runs on node n1" in (why_forged_end(cluster, decode_interval_key(b"c1/n2/10.0.0.10/uid-web-0")) or "")
    assert why_forged_end(cluster, decode_interval_key(b"c1/n1/10.0.0.10/uid-web-0")) is None


class OneRead:
    """A topic with these records."""

    def __init__(self, *values: AddressInterval) -> None:
        self._records = [Record(0, offset, one.key, encode_interval(one), 0) for offset, one in enumerate(values)]

    def bounds(self) -> dict[int, tuple[int, int]]:
        return {0: (0, len(self._records))}

    def start(self, offsets: dict[int, int]) -> None:
        assert offsets == {0: 0}

    def take(self, max_records: int, wait_s: float) -> list[Record]:
        del max_records, wait_s
        taken, self._records = self._records, []
        return taken

    def close(self) -> None:
        pass


def test_a_worker_names_nobody_by_a_forged_interval_and_counts_it(cluster: Cluster) -> None:
    registry = CollectorRegistry()
    reader = OneRead(claim("x", "10.0.0.10", "n2"), claim("old", "10.0.0.77", "n3", 500, 300))
    history = AddressHistory(lambda: reader, cluster, "c1", EnrichMetrics(registry))
    history.start()
    assert history.loaded.wait(60)
    history.stop()
    name = "kubeweir_streams_refused_address_intervals_total"
    assert registry.get_sample_value(name, {"reason": "forged_interval"}) == 1
    owner = cluster.addresses.owner_at("10.0.0.10", NOW - 100 * S, "n1").pod
    assert owner is not None
    assert owner.name == "web-0"
    assert cluster.addresses.owner_at("10.0.0.77", NOW - 400 * S, "n3").pod is not None
