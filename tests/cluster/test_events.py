"""Denied connections as Events that a real API server takes."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

import orjson
import pytest

from enrich.sources.client import Client
from streams.sinks.events import EventSink
from streams.sinks.sink import RefusedError, SinkError
from tests.cluster.apiserver import ApiServer

pytestmark = pytest.mark.cluster


def denied(number: int, *, port: int = 80, age_s: float = 0, **more: Any) -> bytes:
    seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(time.time() - age_s))
    flow = {
        "connection": {"src_ip": "10.0.0.1", "dest_ip": "10.0.0.2", "src_port": 1, "dest_port": port, "protocol": "tcp",
                       "direction": "ingress"},
        "disposition": "deny", "reason": "default_deny", "policies": [],
        "isolated_by": [{"kind": "NetworkPolicy", "namespace": "events", "name": "closed"}],
        "src": {"instance": "10.0.0.1"},
        "dest": {"pod_name": "web-0", "namespace": "events", "pod_uid": "uid-1"},
        "count": 3, "timestamp": f"{seconds}.000000000Z", "last_timestamp": f"{seconds}.000000000Z", "node_name": "n1",
        "cluster": "c1", "schema": 1, "id": f"r1-{number}",
    }  # fmt: skip
    return orjson.dumps(flow | more)


@pytest.fixture
def namespace(api: ApiServer) -> None:
    if "events" not in [one["metadata"]["name"] for one in api.get("/api/v1/namespaces")["items"]]:
        api.create("/api/v1/namespaces", {"metadata": {"name": "events"}})


def sink(
    api: ApiServer, user: str, monkeypatch: pytest.MonkeyPatch, counted: Counter[str], most: int = 60
) -> EventSink:
    monkeypatch.setenv("KUBECONFIG", str(api.kubeconfig(user)))
    client = Client()
    client.connect()
    return EventSink(client.post, 600, most, lambda why: counted.update([why]))


def test_equal_denies_make_one_event_on_the_pod_and_not_too_many(
    api: ApiServer, namespace: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted: Counter[str] = Counter()
    made = sink(api, "admin", monkeypatch, counted, most=3)
    made.write([denied(1), denied(2), denied(3, port=81), denied(4, age_s=3600), denied(5, dest={"node_name": "n1"})])
    # As after a crash: the same record once more, by a sink that remembers nothing.
    sink(api, "admin", monkeypatch, Counter()).write([denied(1)])
    made.write([denied(10 + port, port=port) for port in range(90, 100)])
    events = [e for e in api.get("/api/v1/namespaces/events/events")["items"] if e["source"]["component"] == "kubeweir"]
    assert 3 <= len(events) <= 4
    assert counted["repeated"] == counted["old"] == counted["no_pod"] == 1
    assert counted["rate"] >= 8
    event = next(one for one in events if ", port 80/tcp" in one["message"])
    assert event["involvedObject"]["uid"] == "uid-1"
    assert (event["reason"], event["type"], event["count"]) == ("ConnectionDenied", "Warning", 3)
    assert event["message"] == (
        "connection from 10.0.0.1, port 80/tcp was denied: default deny (NetworkPolicy events/closed)"
    )


def test_a_namespace_that_is_gone_is_refused_and_missing_rights_are_tried_again(
    api: ApiServer, namespace: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = {"pod_name": "x", "namespace": "gone", "pod_uid": "u"}
    with pytest.raises(RefusedError, match="404"):
        sink(api, "admin", monkeypatch, Counter()).write([denied(1, dest=gone)])
    with pytest.raises(SinkError, match="403"):
        sink(api, "reader", monkeypatch, Counter()).write([denied(2)])


def test_a_namespace_that_is_being_deleted_does_not_stop_the_events_of_others(
    api: ApiServer, namespace: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Nothing here ends the deletion, so that the namespace stays in it.
    api.create("/api/v1/namespaces", {"metadata": {"name": "leaving"}})
    api.delete("/api/v1/namespaces/leaving")
    leaving = {"pod_name": "x", "namespace": "leaving", "pod_uid": "u"}
    made = sink(api, "admin", monkeypatch, Counter())
    with pytest.raises(RefusedError, match="being terminated") as caught:
        made.write([denied(900, port=700), denied(901, dest=leaving), denied(902, port=701)])
    assert (caught.value.done, caught.value.tried) == (1, 1)
    made.write([denied(902, port=701)])
    events = [one["message"] for one in api.get("/api/v1/namespaces/events/events")["items"]]
    assert all(any(f", port {port}/tcp" in text for text in events) for port in (700, 701))
