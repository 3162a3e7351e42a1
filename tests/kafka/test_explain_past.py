"""`weir explain --at` and `weir explain RECORD-ID` on a real journal, real address intervals and real records."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pytest
from click.testing import CliRunner, Result
from confluent_kafka import Producer

from enrich.history.profile import LEFT_OUT
from enrich.wire.address_interval import AddressInterval, OwnerRef, encode_interval
from enrich.wire.journal import ContainerPort, JournalEntry, Profile
from enrich.wire.topics import Topics
from streams.cli.main import command
from tests.enrich.history.journals import CLUSTER, at, begin, entry, gap, namespace, node, policy, refused
from tests.kafka.pasts import write_past
from tests.kafka.site import Site

pytestmark = pytest.mark.kafka

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


def _write(site: Site, journal: Sequence[JournalEntry] = JOURNAL, *, intervals: bool = True) -> Topics:
    names = write_past(site, journal, [])
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


def _record(record_id: str, seconds: float, **more: Any) -> bytes:
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


def _run(site: Site, *arguments: str) -> Result:
    env = {"WEIR_KAFKA": site.connection["bootstrap.servers"], "WEIR_TOPIC_PREFIX": site.prefix}
    return CliRunner().invoke(command, ["explain", *arguments], env=env)


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(at(seconds) / 1e9, UTC).isoformat()


def test_policies_are_asked_as_of_then_and_the_changes_since_are_named(site: Site) -> None:
    _write(site)
    done = _run(site, "shop/web-1", "shop/db-1:postgres", "--at", _time(500))
    assert done.exit_code == 1, done.output
    assert "DENIED  shop/web-1 -> shop/db-1, port 5432/TCP" in done.stdout
    assert "NetworkPolicy shop/db was changed 8 min later" in done.stdout
    assert "by kubectl-client-side-apply" in done.stdout
    assert "today it would be allowed" in done.stdout
    done = _run(site, "shop/web-1", "shop/db-1:5432", "--at", _time(1500), "-o", "json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert (found["then"]["verdict"], found["changes"], found["today"]["verdict"]) == ("allow", [], "allow")


def test_in_a_gap_and_before_the_journal_it_cannot_say(site: Site) -> None:
    _write(site, [*JOURNAL, gap(1100, 1200), refused(CLOSED, 1300)])
    done = _run(site, "shop/web-1", "shop/db-1:5432", "--at", _time(1350))
    assert done.exit_code == 2
    assert "the journal does not have the version of NetworkPolicy shop/db of" in done.stdout
    done = _run(site, "shop/web-1", "shop/db-1:5432", "--at", _time(500))
    assert done.exit_code == 1
    assert "what policies say today is not known" in done.stdout
    done = _run(site, "shop/web-1", "shop/db-1:5432", "--at", _time(1150))
    assert done.exit_code == 2
    assert "CANNOT SAY" in done.stdout
    assert "the journal was not written from" in done.stdout
    done = _run(site, "shop/web-1", "shop/db-1:5432", "--at", _time(-50))
    assert "the journal begins at" in done.stdout
    done = _run(site, "shop/gone", "shop/db-1:5432", "--at", _time(500))
    assert done.exit_code == 2
    assert "shop/gone had no address then" in done.stdout


@pytest.mark.parametrize("intervals", [True, False])
def test_a_record_is_explained_by_the_policies_that_made_it(site: Site, intervals: bool) -> None:
    """Without address intervals, the profiles of its workloads have the labels."""
    names = _write(site, intervals=intervals)
    producer = Producer(site.connection)
    # The kernel still had the old version for two seconds.
    records = [_record("ring-1", 500), _record("ring-2", CHANGED + 2), _record("ring-3", CHANGED + 500)]
    for one in records:
        producer.produce(names.denied.name, one)
    assert producer.flush(120) == 0
    for record_id in ("ring-1", "ring-2"):
        done = _run(site, record_id, "-o", "json")
        assert done.exit_code == 1, done.output
        found = json.loads(done.stdout)
        assert (found["agrees"], found["then"]["verdict"], found["today"]["verdict"]) == (True, "deny", "allow")
        assert [one["by"] for one in found["changes"]] == ["kubectl-client-side-apply"]
    done = _run(site, "ring-3")
    assert "the policies of its time say otherwise than was recorded" in done.stdout
    done = _run(site, "ring-4")
    assert done.exit_code == 2
    assert "has the id ring-4; --since looks further back" in done.stderr
    assert "is not the id of a record" in _run(site, "x").stderr
