"""The past of a small shop: web opens connections to db, whose policy is opened at :data:`CHANGED`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from confluent_kafka import Producer

from enrich.history.left_out import LEFT_OUT
from enrich.wire.address_interval import AddressInterval, OwnerRef, encode_interval
from enrich.wire.journal import ContainerPort, JournalEntry, Profile
from enrich.wire.pair import PairKey
from enrich.wire.topics import Topics
from tests.enrich.history.journals import CLUSTER, at, begin, entry, namespace, node, policy
from tests.kafka.pasts import write_past
from tests.kafka.site import Site

WEB, DB = (
    Profile(
        namespace="shop", workload_kind="Deployment", workload_name=name, labels={"app": name},
        ports=(ContainerPort("postgres", 5432, 6),) if name == "db" else (),
    )
    for name in ("web", "db")
)  # fmt: skip
CLOSED = policy("db", {"podSelector": {"matchLabels": {"app": "db"}}})
FROM_WEB = {"from": [{"podSelector": {"matchLabels": {"app": "web"}}}], "ports": [{"port": "postgres"}]}
OPEN = policy("db", {"podSelector": {"matchLabels": {"app": "db"}}, "ingress": [FROM_WEB]})
CHANGED = 1000
"""Seconds after the beginning at which the policy is opened."""
JOURNAL = [
    begin(), entry(WEB, 0), entry(DB, 0), entry(namespace("shop"), 0), entry(node("n1", "192.168.0.1"), 0),
    entry(CLOSED, 0), entry(OPEN, CHANGED, by="kubectl-client-side-apply"),
]  # fmt: skip


def write_shop(
    site: Site,
    journal: Sequence[JournalEntry] = JOURNAL,
    pairs: Sequence[tuple[PairKey, int]] = (),
    *,
    intervals: bool = True,
) -> Topics:
    """Write the journal, and who had which address."""
    names = write_past(site, journal, pairs)
    producer = Producer(site.connection)
    for index, name in enumerate(("web", "db") if intervals else ()):
        one = AddressInterval(
            cluster=CLUSTER, node="n1", ip=f"10.0.0.{index + 1}", uid=name, namespace="shop", pod=f"{name}-1",
            first=at(1), start=at(1), labels={"app": name, LEFT_OUT[-1]: f"{name}-1"},
            owner=OwnerRef("ReplicaSet", f"{name}-7d"),
        )  # fmt: skip
        producer.produce(names.endpoints.name, encode_interval(one), one.key)
    assert producer.flush(120) == 0
    return names


def record(record_id: str, seconds: float, **more: Any) -> bytes:
    """Return a denial of shop/web-1 to shop/db-1."""
    when = datetime.fromtimestamp(at(seconds) / 1e9, UTC).strftime("%Y-%m-%dT%H:%M:%S.000000000Z")
    end = {"namespace": "shop", "pod_namespace": "shop", "workload_kind": "Deployment", "node_name": "n1"}
    return json.dumps({
        "connection": {"src_ip": "10.0.0.1", "dest_ip": "10.0.0.2", "src_port": 40000, "dest_port": 5432,
                       "protocol": "tcp", "direction": "ingress"},
        "disposition": "deny", "reason": "default_deny", "policies": [],
        "isolated_by": [{"kind": "NetworkPolicy", "namespace": "shop", "name": "db"}],
        "src": {**end, "pod_name": "web-1", "pod_uid": "web", "workload_name": "web", "labels": {"app": "web"}},
        "dest": {**end, "pod_name": "db-1", "pod_uid": "db", "workload_name": "db", "labels": {"app": "db"}},
        "count": 1, "timestamp": when, "last_timestamp": when, "node_name": "n1", "cluster": CLUSTER, "schema": 1,
        "id": record_id, **more,
    }).encode()  # fmt: skip
