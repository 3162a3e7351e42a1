"""Queries that people have saved for GKE's network policy log give what they gave there, on our records.

The fields are those that GKE documents: disposition, connection, src, dest, policies, count, node_name, timestamp.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from typing import Any, Final

import orjson
import pytest

from enrich.render.enricher import Enricher
from enrich.render.merged_batch import merge
from enrich.wire.batch import INGRESS, Reason, Verdict
from tests.enrich.flows import make_batch, make_cluster

DENIED: Final = {"verdict": Verdict.DENY | INGRESS, "reason": Reason.DEFAULT_DENY, "rule": 2}
VERDICTS: Final[dict[str, dict[str, Any]]] = {
    "an allowed connection between pods": {},
    "an allowed datagram": {"protocol": 17, "destination_port": 53},
    "a denied connection of another pod": {
        **DENIED, "source": "10.0.0.2", "destination": "10.0.0.1", "count": 3, "span_ms": 4000,
    },
    "a denied connection from outside": {**DENIED, "source": "203.0.113.9", "destination": "10.0.0.1"},
    "a denied ping from outside": {
        **DENIED, "source": "203.0.113.9", "destination": "10.0.0.1", "protocol": 1, "destination_port": 8 << 8,
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def records() -> dict[str, dict[str, Any]]:
    values = Enricher(make_cluster()).records(merge(make_batch(*VERDICTS.values()))).values
    return dict(zip(VERDICTS, map(orjson.loads, values), strict=True))


def gke(record: dict[str, Any]) -> dict[str, Any]:
    """What GKE's log has of a record."""
    ends = ("pod_name", "pod_namespace", "namespace", "workload_kind", "workload_name", "instance")
    names = ("kind", "name", "namespace")
    return {
        "connection": record["connection"],
        "disposition": record["disposition"],
        "policies": [{key: one[key] for key in names if key in one} for one in record["policies"]],
        "src": {key: record["src"][key] for key in ends if key in record["src"]},
        "dest": {key: record["dest"][key] for key in ends if key in record["dest"]},
        "count": record["count"],
        "node_name": record["node_name"],
    }


WEB: Final = {
    "pod_name": "web-1", "pod_namespace": "shop", "namespace": "shop", "workload_kind": "Deployment",
    "workload_name": "web",
}  # fmt: skip
API: Final = {"pod_name": "api-1", "pod_namespace": "shop", "namespace": "shop"}


def test_an_allowed_connection_has_the_shape_of_gkes(records: dict[str, dict[str, Any]]) -> None:
    assert gke(records["an allowed connection between pods"]) == {
        "connection": {
            "src_ip": "10.0.0.1", "dest_ip": "10.0.0.2", "src_port": 40000, "dest_port": 8080, "protocol": "tcp",
            "direction": "egress",
        },
        "disposition": "allow",
        "policies": [{"kind": "NetworkPolicy", "name": "allow-web", "namespace": "shop"}],
        "src": WEB,
        "dest": API,
        "count": 1,
        "node_name": "n1",
    }  # fmt: skip


def test_a_denied_connection_from_outside_has_the_shape_of_gkes(records: dict[str, dict[str, Any]]) -> None:
    assert gke(records["a denied connection from outside"]) == {
        "connection": {
            "src_ip": "203.0.113.9", "dest_ip": "10.0.0.1", "src_port": 40000, "dest_port": 8080, "protocol": "tcp",
            "direction": "ingress",
        },
        "disposition": "deny",
        "policies": [],
        "src": {"instance": "203.0.113.9"},
        "dest": WEB,
        "count": 1,
        "node_name": "n1",
    }  # fmt: skip


def test_a_protocol_without_ports_has_none(records: dict[str, dict[str, Any]]) -> None:
    connection = records["a denied ping from outside"]["connection"]
    assert connection == {"src_ip": "203.0.113.9", "dest_ip": "10.0.0.1", "protocol": "icmp", "direction": "ingress"}
    assert records["an allowed datagram"]["connection"]["protocol"] == "udp"


def test_the_time_is_one_of_rfc_3339_in_utc(records: dict[str, dict[str, Any]]) -> None:
    for record in records.values():
        assert re.fullmatch(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}\.\d{9}Z", record["timestamp"])


QUERIES: Final = [
    ('select(.disposition == "deny") | .connection.src_ip', ["10.0.0.2", "203.0.113.9", "203.0.113.9"]),
    ('select(.disposition == "deny" and .src.instance != null) | .src.instance', ["203.0.113.9", "203.0.113.9"]),
    ('select(.disposition == "deny" and .dest.pod_namespace == "shop") | .dest.pod_name', ["web-1"] * 3),
    ('select(.connection.direction == "egress") | .dest.pod_name', ["api-1", "api-1"]),
    ('select(.policies[]?.name == "allow-web") | .connection.dest_port', [8080, 53]),
    ('select(.policies[]? | .name == "allow-web" and .namespace == "shop") | .disposition', ["allow", "allow"]),
    ('select(.connection.dest_port == 53) | .src.workload_name', ["web"]),
    ('select(.connection.protocol == "icmp") | .connection.dest_port', [None]),
    ("select(.count > 1) | .count", [3]),
    ('select(.node_name == "n1") | .disposition', ["allow", "allow", "deny", "deny", "deny"]),
    ('select(.src.namespace == "shop" and .dest.namespace == "shop") | .src.pod_name', ["web-1", "web-1", "api-1"]),
]  # fmt: skip


@pytest.mark.skipif(shutil.which("jq") is None, reason="jq is not installed: run deploy/local/setup")
@pytest.mark.parametrize(("query", "expected"), QUERIES)
def test_a_saved_query_works(records: dict[str, dict[str, Any]], query: str, expected: list[Any]) -> None:
    lines = b"\n".join(orjson.dumps(record) for record in records.values())
    done = subprocess.run(["jq", "-c", query], input=lines, capture_output=True, check=True)
    assert [orjson.loads(line) for line in done.stdout.splitlines()] == expected


@pytest.mark.skipif(shutil.which("jq") is None, reason="jq is not installed: run deploy/local/setup")
def test_denials_are_summed_by_source(records: dict[str, dict[str, Any]]) -> None:
    query = (
        '[.[] | select(.disposition == "deny")] | group_by(.connection.src_ip) '
        "| map({(.[0].connection.src_ip): (map(.count) | add)}) | add"
    )
    done = subprocess.run(
        ["jq", "-c", query], input=orjson.dumps(list(records.values())), capture_output=True, check=True
    )
    assert orjson.loads(done.stdout) == {"10.0.0.2": 3, "203.0.113.9": 2}
