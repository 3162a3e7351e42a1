"""Two clusters on one Kafka, with the same topics: each takes its own, and nobody gets the other's names."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from confluent_kafka import Producer

from enrich.wire.address_interval import encode_interval
from enrich.wire.batch import EndpointRef
from streams.kafka.consumer_groups import group_names
from tests.kafka.batches import make_batch, mapped, write_manifests
from tests.kafka.hook import Hook
from tests.kafka.site import Service, Site, ids_of, until
from tests.kafka.test_alerts import BURST
from tests.kafka.test_history import make_interval

pytestmark = pytest.mark.kafka
S = 1_000_000_000
_GROUPS = ("enrich", "sink.file", "route.all.file", "alerts.count", "alerts.engine", "alerts.to.hook")
_FOREIGN = 'kubeweir_streams_foreign_records_total{what="%s"}'


class OneCluster:
    """One of the clusters: its workers, with a file, a route and a webhook each. Its pods have the same addresses as
    the other's."""

    def __init__(self, site: Site, cluster: str, namespace: str) -> None:
        self.site, self.cluster, self.namespace = site, cluster, namespace
        self.file, self.routed = site.folder / "out.log", site.folder / "routed.log"
        self.hook = Hook()
        write_manifests(site.folder / "manifests", cluster)
        manifests = site.folder / "manifests" / "cluster.yaml"
        manifests.write_text(manifests.read_text().replace("shop", namespace).replace("uid-", f"uid-{namespace}-"))
        routes = {"name": "all", "outputs": [{"file": {"path": str(self.routed)}}]}
        (site.folder / "routes.yaml").write_text(json.dumps({"version": 1, "routes": [routes]}))
        self.write_alerts([BURST])

    def write_alerts(self, rules: list[dict[str, Any]]) -> None:
        disable = ["deny-burst", "port-scan", "host-scan", "first-deny", "denied-after-change", "pipeline-loss"]
        outputs = [{"name": "hook", "webhook": {"url": self.hook.url}}]
        made = {"version": 1, "rules": rules, "outputs": outputs, "disable": disable}
        (self.site.folder / "alerts.yaml").write_text(json.dumps(made))

    def start(self) -> Service:
        folder = self.site.folder
        service = self.site.start(
            "enrich", "file", "routes", "alerts", WEIR_FILE_PATH=str(self.file),
            WEIR_ROUTES=str(folder / "routes.yaml"), WEIR_ALERTS=str(folder / "alerts.yaml"),
        )  # fmt: skip
        service.wait_for("partitions assigned")
        return service

    def send(self, first: int, count: int, **header: Any) -> None:
        """Send denied verdicts of ring ``namespace``, to an address that a pod had which is gone."""
        pod = EndpointRef(self.namespace, "web-0", f"uid-{self.namespace}-web-0")
        own = {"cluster": self.cluster, "ring": self.namespace, "endpoints": {"7": pod}}
        value = make_batch(first, count, own | header, denied=True, destination=mapped("10.0.0.99"))
        self.site.send(value, f"{self.cluster}/n1/{self.namespace}")
        self.site.flush()

    def wait_for_own_records(self) -> None:
        """Wait for the records in the files, and for the alert."""
        until(lambda: ids_of(self.file) == self.ids(60) or None, "the file of its own records")
        until(lambda: ids_of(self.routed) == self.ids(60) or None, "the route's file of its own records")
        until(lambda: self.hook.alerts or None, "an alert of its own")
        assert {alert["group"]["cluster"] for alert in self.hook.alerts} == {self.cluster}

    def ids(self, count: int) -> set[str]:
        return {f"{self.namespace}-{number}" for number in range(count)}


@pytest.fixture
def pair(broker: str, site: Site, tmp_path: Path) -> Iterator[tuple[OneCluster, OneCluster]]:
    (tmp_path / "b").mkdir()
    other = Site(broker, site.prefix, tmp_path / "b")
    made = OneCluster(site, "c1", "shop"), OneCluster(other, "c2", "bank")
    yield made
    other.end()
    for one in made:
        one.hook.close()


def _wait_for(service: Service, metric: str, value: float) -> None:
    until(lambda: service.metric(metric) == value or None, f"{metric} {value}")


def _publish_intervals(site: Site) -> None:
    """Both clusters had a pod with the address 10.0.0.99, each its own."""
    producer = Producer({"bootstrap.servers": site.broker, "partitioner": "murmur2_random"})
    for cluster in ("c1", "c2"):
        old = make_interval(f"old-of-{cluster}", "10.0.0.99", time.time_ns() - 100 * S, cluster=cluster)
        producer.produce(f"{site.prefix}.endpoints", encode_interval(old), old.key)
    assert producer.flush(120) == 0


def test_each_cluster_takes_its_own_in_every_role(pair: tuple[OneCluster, OneCluster]) -> None:
    services = [one.start() for one in pair]
    site = pair[0].site
    _publish_intervals(site)
    for service in services:
        _wait_for(service, "kubeweir_streams_address_interval_records_total", 1)
    for one in pair:
        one.send(0, 60)
    pair[1].send(60, 1, v=9)
    flows = site.read_flows(120)
    assert {(flow["cluster"], flow["src"]["namespace"], flow["dest"]["pod_name"]) for flow in flows} == {
        ("c1", "shop", "old-of-c1"), ("c2", "bank", "old-of-c2"),
    }  # fmt: skip
    (dead,) = site.read("dead", lambda found: len(found) >= 1)
    assert dict(dead.headers() or [])["reason"] == b"unknown_version", "only its own cluster's workers report it"
    for one, service, skipped in zip(pair, services, (2, 1), strict=True):
        one.wait_for_own_records()
        _wait_for(service, _FOREIGN % "batches", skipped)
        assert service.metric(_FOREIGN % "address_intervals") == 1
    assert group_names({"bootstrap.servers": site.broker}, f"{site.prefix}.") == sorted(
        f"{site.prefix}.{cluster}.{name}" for cluster in ("c1", "c2") for name in _GROUPS
    )

    # The rule of one cluster goes, and with it its alert; the other cluster's stays.
    pair[0].write_alerts([])
    until(lambda: "resolved" in {alert["status"] for alert in pair[0].hook.alerts} or None, "its alert to be resolved")
    alerts = [orjson.loads(message.value() or b"") for message in site.read("alerts", lambda found: len(found) >= 3)]
    assert {(alert["group"]["cluster"], alert["status"]) for alert in alerts} == {
        ("c1", "firing"), ("c1", "resolved"), ("c2", "firing"),
    }  # fmt: skip
    observe = [f"{sys.prefix}/bin/weir", "observe", "--kafka", site.broker, "--topic-prefix", site.prefix, "-o", "json"]
    shown = subprocess.run(
        [*observe, "--last", "500", "--cluster", "c2"], env={**os.environ}, capture_output=True, text=True, check=True
    )
    assert {orjson.loads(line)["cluster"] for line in shown.stdout.splitlines()} == {"c2"}


def test_without_an_id_in_its_manifests_a_worker_takes_every_cluster_and_says_so(site: Site) -> None:
    manifests = site.folder / "manifests" / "cluster.yaml"
    manifests.write_text(manifests.read_text().replace("kube-system", "another"))
    service = site.start_enrich()
    service.wait_for("the cluster's id is not known, because the manifests have no namespace kube-system: batches and "
                     "records of every cluster on these topics are taken. Set WEIR_CLUSTER if several clusters share "
                     "them")  # fmt: skip
    site.send(make_batch(0, 3, {"cluster": "any"}))
    site.flush()
    assert len(site.read_flows(3)) == 3
