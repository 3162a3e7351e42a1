"""Records of all kinds in a real Elasticsearch that has the index templates of deploy/shippers."""

from __future__ import annotations

import time
from typing import Any

import msgspec
import orjson
import pytest

from streams.forms import FORMS
from tests.kafka.elasticsearch import SHIPPERS, Elasticsearch
from tests.streams.alerts.makers import stamp
from tests.streams.forms.test_forms import RECORDS

pytestmark = pytest.mark.kafka

NUMBER = 1000
HOSTILE: list[dict[str, str]] = [
    {"a": "1", "a.b": "2", "a.b.c": "3"},
    {"a.b": "4", "app": "web", "app.kubernetes.io/name": "web"},
    {"long": "x" * 40_000, "longer": "ü" * 40_000},
    {"number": "17", "date": "2026-01-01", "truth": "true", "ip": "10.0.0.1", "empty": ""},
    {"number": "seventeen", "date": "never", "truth": "maybe", "ip": "none", "..": "dots", ".x": "y"},
    {f"key-{number}.example.com/name": "v" * 63 for number in range(300)},
]


def hostile(number: int) -> bytes:
    """A record of one kind in turn, with labels that exclude each other and names that look like something else."""
    record: dict[str, Any] = orjson.loads(msgspec.json.encode(RECORDS[number % len(RECORDS)]))
    now = stamp(time.time())
    record |= {"id": f"r1-{number}", "timestamp": now, "last_timestamp": now}
    record["node_name"] = ("n1", "2026-01-01", "17", "10.0.0.1")[number % 4]
    for side in ("src", "dest"):
        if record[side].get("pod_name"):
            record[side] |= {"labels": HOSTILE[number % len(HOSTILE)], "pod_name": ("web-0", "2026-01-01")[number % 2]}
    record["added.later"] = {"x": 1} if number % 2 else "y"
    return orjson.dumps(record)


@pytest.fixture(scope="module")
def records() -> list[bytes]:
    """Records of all kinds: 40 MB, which are made only where they are used."""
    return [hostile(number) for number in range(NUMBER)]


def test_it_takes_all_records_as_they_are_and_answers_the_queries(
    elasticsearch: Elasticsearch, records: list[bytes]
) -> None:
    assert elasticsearch.index("other", records), "without a template it refuses some of them"
    assert elasticsearch.index("kubeweir-flows", records) == []
    flows = [orjson.loads(value) for value in records]
    found = elasticsearch.search("kubeweir-flows", {"size": NUMBER})
    assert sorted(one["_source"]["id"] for one in found["hits"]["hits"]) == sorted(flow["id"] for flow in flows)
    queries: dict[str, dict[str, Any]] = orjson.loads((SHIPPERS / "elasticsearch-queries.json").read_bytes())
    denied = [flow for flow in flows if flow["disposition"] != "allow"]
    expected = {
        "what policies deny": sum(len(flow["isolated_by"]) > 0 for flow in denied),
        "who is denied what": len(denied),
        "denied from pods with a label": sum(labels(flow).get("app.kubernetes.io/name") == "web" for flow in denied),
        "labels of denied pods": sum(bool(labels(flow)) for flow in denied),
        "denied to a network": sum(flow["connection"].get("dest_ip", "").startswith("10.") for flow in denied),
        "floods": sum(bool(flow.get("aggregated")) for flow in flows),
    }
    assert queries.keys() == expected.keys()
    for name, query in queries.items():
        answer = elasticsearch.search("kubeweir-flows", {**query, "track_total_hits": True})
        assert expected[name] > 0
        if name == "what policies deny":
            (policy,) = answer["aggregations"]["policy"]["buckets"]
            assert (policy["key"], policy["doc_count"]) == ("default-deny", expected[name])
        elif name == "labels of denied pods":
            assert {"web", "1"} <= {one["key"] for one in answer["aggregations"]["labels"]["buckets"]}
        else:
            assert answer["hits"]["total"]["value"] == expected[name], name


def labels(flow: dict[str, Any]) -> dict[str, str]:
    found: dict[str, str] = flow["src"].get("labels") or {}
    return found


def test_it_takes_all_records_in_the_form_of_its_schema(elasticsearch: Elasticsearch, records: list[bytes]) -> None:
    made = [FORMS["ecs"](msgspec.json.decode(value, type=type(RECORDS[0]))) for value in records]
    assert elasticsearch.index("kubeweir-ecs-flows", made) == []
    query = {"query": {"term": {"kubeweir.source.labels": "app.kubernetes.io/name=web"}}, "size": 1}
    hits = elasticsearch.search("kubeweir-ecs-flows", {**query, "track_total_hits": True})["hits"]
    assert hits["total"]["value"] == sum(
        labels(orjson.loads(value)).get("app.kubernetes.io/name") == "web" for value in records
    )
    assert hits["hits"][0]["_source"]["event"]["category"] == ["network"]
    span = {"query": {"range": {"@timestamp": {"gte": "now-1d"}}}, "size": 0, "track_total_hits": True}
    assert elasticsearch.search("kubeweir-ecs-flows", span)["hits"]["total"]["value"] == NUMBER
