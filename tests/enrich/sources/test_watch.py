"""The watch against a server that says by script what a real one says seldom. It speaks real bytes."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from unittest.mock import MagicMock
from urllib.parse import parse_qs, urlsplit

import kubernetes
import msgspec
import orjson
import pytest

from enrich.index.cluster import Cluster
from enrich.model import Name, NetworkPolicy
from enrich.policy.selectors import matches
from enrich.sources.kubernetes import KubernetesSource
from enrich.sources.resources import RESOURCES, Reader
from tests.waiting import until

PODS = "/api/v1/pods"
POLICIES = "/apis/networking.k8s.io/v1/networkpolicies"


def pod(name: str, version: int, **status: Any) -> dict[str, Any]:
    meta = {"name": name, "namespace": "shop", "uid": f"uid-{name}", "resourceVersion": str(version)}
    return {"metadata": meta, "spec": {"nodeName": "n1"}, "status": status}


def policy(spec: dict[str, Any]) -> dict[str, Any]:
    return {"metadata": {"name": "p", "namespace": "shop", "uid": "u", "resourceVersion": "9"}, "spec": spec}


def event(kind: str, item: dict[str, Any]) -> bytes:
    return json.dumps({"type": kind, "object": item}).encode() + b"\n"


class Script:
    """What the server answers: pages of a list by path and token, and the watches of a path, one after the other.

    The last of some pages is answered again and again; after the last watch there is one that says nothing. Streams
    with initial events are refused, as by a server without WatchList, where there are none.
    """

    def __init__(self) -> None:
        self.pages: dict[tuple[str, str], list[tuple[int, dict[str, Any]]]] = {}
        self.watches: dict[str, list[tuple[int, list[bytes]]]] = {}
        self.initial: dict[str, list[tuple[int, list[bytes]]]] = {}
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.over = threading.Event()

    def seen(self, path: str, **wanted: str) -> int:
        """How often something was asked for."""
        return sum(p == path and wanted.items() <= query.items() for p, query in list(self.asked))


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    script: Script

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(parts.query).items()}
        self.script.asked.append((parts.path, query))
        if "sendInitialEvents" in query:
            scripted = self.script.initial.get(parts.path) or [(422, [])]
            self.stream(scripted, scripted.pop(0) if len(scripted) > 1 else scripted[0])
            return
        if "watch" in query:
            scripted = self.script.watches.get(parts.path) or []
            self.stream(scripted, scripted.pop(0) if scripted else (200, []))
            return
        empty: tuple[int, dict[str, Any]] = (200, {"metadata": {"resourceVersion": "1"}, "items": None})
        pages = self.script.pages.get((parts.path, query.get("continue", ""))) or [empty]
        status, page = pages.pop(0) if len(pages) > 1 else pages[0]
        body = json.dumps(page).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def stream(self, more: list[Any], answer: tuple[int, list[bytes]]) -> None:
        status, blocks = answer
        self.send_response(status)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        with contextlib.suppress(OSError):
            for block in blocks:
                self.wfile.write(b"%x\r\n%b\r\n" % (len(block), block))
                time.sleep(0.02)
            if not more and status == 200 and not blocks:
                self.script.over.wait()
            self.wfile.write(b"0\r\n\r\n")

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        pass


@pytest.fixture
def script() -> Script:
    return Script()


@pytest.fixture
def source(script: Script, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[KubernetesSource, Cluster]]:
    monkeypatch.setattr("enrich.sources.watch._FIRST_BACKOFF_S", 0.02)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Scripted", (Handler,), {"script": script}))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    cluster = Cluster()
    configuration = kubernetes.client.Configuration(host=f"http://127.0.0.1:{server.server_port}")
    made = KubernetesSource(cluster, lambda: kubernetes.client.ApiClient(configuration))
    try:
        yield made, cluster
    finally:
        made.stop()
        script.over.set()
        server.shutdown()
        server.server_close()
        thread.join()


def start(source: tuple[KubernetesSource, Cluster]) -> Cluster:
    made, cluster = source
    made.start()
    return cluster


@pytest.mark.parametrize("how", ["status", "event"])
def test_410_lists_again_and_diffs(script: Script, source: tuple[KubernetesSource, Cluster], how: str) -> None:
    first = {"metadata": {"resourceVersion": "5"}, "items": [pod("a", 2), pod("b", 3)]}
    second = {"metadata": {"resourceVersion": "9"}, "items": [pod("b", 3), pod("c", 8)]}
    script.pages[PODS, ""] = [(200, first), (200, second)]
    gone = event("ERROR", {"kind": "Status", "code": 410, "message": "too old"})
    script.watches[PODS] = [(410, [b"{}"])] if how == "status" else [(200, [gone])]
    cluster = start(source)
    until(lambda: cluster.addresses.pod_by_uid("uid-a"))
    until(lambda: {name.name for name in cluster.pods()} == {"b", "c"})
    until(lambda: script.seen(PODS, watch="true", resourceVersion="9") == 1)


def test_a_list_whose_token_is_too_old_begins_again(script: Script, source: tuple[KubernetesSource, Cluster]) -> None:
    script.pages[PODS, ""] = [(200, {"metadata": {"continue": "x", "resourceVersion": "5"}, "items": [pod("a", 2)]})]
    script.pages[PODS, "x"] = [(410, {})]
    cluster = start(source)
    until(lambda: script.seen(PODS, **{"continue": "x"}) >= 2)
    assert "Pod" in cluster.missing()
    script.pages[PODS, "x"] = [(200, {"metadata": {"resourceVersion": "5"}, "items": [pod("b", 3)]})]
    until(lambda: {name.name for name in cluster.pods()} == {"a", "b"})


def test_a_watch_goes_on_from_the_last_event_or_bookmark(
    script: Script, source: tuple[KubernetesSource, Cluster]
) -> None:
    added = event("ADDED", pod("a", 7, podIP="10.0.0.1"))
    bookmark = event("BOOKMARK", {"metadata": {"resourceVersion": "20"}})
    error = event("ERROR", {"kind": "Status", "code": 500, "message": "etcd is away"})
    script.watches[PODS] = [
        (200, [added[:10], added[10:] + bookmark[:5], bookmark[5:]]),  # events do not end where reads do
        (503, [b"busy"]),
        (200, [event("MODIFIED", pod("a", 21, podIP="10.0.0.2")), error]),
        (200, [event("DELETED", pod("a", 22)), b'{"type": "ADD']),
    ]
    cluster = start(source)
    until(lambda: script.seen(PODS, watch="true", resourceVersion="20") == 2)
    until(lambda: script.seen(PODS, watch="true", resourceVersion="22") >= 1)
    assert script.seen(PODS, limit="500") == 1, "listed once"
    assert not cluster.pods()
    gone = cluster.addresses.pod_by_uid("uid-a")
    assert gone is not None
    assert gone.ips == ("10.0.0.2",)
    assert script.seen(PODS, watch="true", allowWatchBookmarks="true") == script.seen(PODS, watch="true")


END = event("BOOKMARK", {"metadata": {"resourceVersion": "9", "annotations": {"k8s.io/initial-events-end": "true"}}})


def test_a_list_that_comes_as_a_stream_goes_on_as_the_watch(
    script: Script, source: tuple[KubernetesSource, Cluster]
) -> None:
    plain = event("BOOKMARK", {"metadata": {"resourceVersion": "7"}})
    later = event("MODIFIED", pod("a", 12, podIP="10.0.0.7"))
    script.initial[PODS] = [(200, [event("ADDED", pod("a", 5)), plain, event("ADDED", pod("b", 2)), END, later])]
    cluster = start(source)
    until(lambda: script.seen(PODS, watch="true", resourceVersion="12") == 1)
    assert script.seen(PODS, sendInitialEvents="true", resourceVersionMatch="NotOlderThan") == 1
    assert script.seen(PODS, limit="500") == 0
    assert {name.name: found.ips for name, found in cluster.pods().items()} == {"a": ("10.0.0.7",), "b": ()}


def test_a_stream_that_breaks_off_before_the_list_is_complete_counts_for_nothing(
    script: Script, source: tuple[KubernetesSource, Cluster]
) -> None:
    script.initial[PODS] = [(200, [event("ADDED", pod("a", 5))])]
    script.pages[PODS, ""] = [(200, {"metadata": {"resourceVersion": "5"}, "items": [pod("b", 3)]})]
    cluster = start(source)
    until(lambda: {name.name for name in cluster.pods()} == {"b"})
    assert cluster.addresses.pod_by_uid("uid-a") is None
    until(lambda: script.seen(PODS, watch="true", resourceVersion="5") == 1)


@pytest.mark.parametrize("how", ["status", "event"])
def test_410_lists_again_as_a_stream_and_diffs(
    script: Script, source: tuple[KubernetesSource, Cluster], how: str
) -> None:
    second = END.replace(b'"9"', b'"20"')
    script.initial[PODS] = [
        (200, [event("ADDED", pod("a", 5)), event("ADDED", pod("b", 2)), END]),
        (200, [event("ADDED", pod("b", 2)), event("ADDED", pod("c", 15)), second]),
    ]
    gone = event("ERROR", {"kind": "Status", "code": 410, "message": "too old"})
    script.watches[PODS] = [(410, [b"{}"])] if how == "status" else [(200, [gone])]
    cluster = start(source)
    until(lambda: cluster.addresses.pod_by_uid("uid-a"))
    until(lambda: {name.name for name in cluster.pods()} == {"b", "c"})
    until(lambda: script.seen(PODS, watch="true", resourceVersion="20") == 1)


def test_a_server_that_falls_silent_is_asked_again_from_the_last_version(
    script: Script, source: tuple[KubernetesSource, Cluster], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("enrich.sources.watch._SILENCE_S", 0.3)
    script.initial[PODS] = [(200, [event("ADDED", pod("a", 5)), END])]
    start(source)
    until(lambda: script.seen(PODS, watch="true", resourceVersion="9") >= 3)
    # Every kind is silent, and asked again as often; some may not have been listed when pods have.
    until(lambda: source[0].problem() is None)
    assert source[0].age_s()["Pod"] < 20


def test_how_far_the_index_is_read(script: Script, source: tuple[KubernetesSource, Cluster]) -> None:
    script.initial[PODS] = [(503, [])]
    cluster = start(source)
    until(lambda: cluster.missing() == ["Pod"])
    assert source[0].synced_until_ns() == 0, "nothing is known of pods"
    script.initial[PODS] = [(200, [END])]
    until(lambda: time.time_ns() - source[0].synced_until_ns() < 10**9)


def test_what_is_not_understood_is_left_out_and_told(script: Script, source: tuple[KubernetesSource, Cluster]) -> None:
    odd = pod("odd", 3, podIP="not an address")
    script.pages[PODS, ""] = [(200, {"metadata": {"resourceVersion": "5"}, "items": [odd, pod("a", 2)]})]
    script.watches[PODS] = [(200, [event("DELETED", odd), event("ADDED", pod("b", 6, podIP="?"))])]
    cluster = start(source)
    until(lambda: source[0].refused() == ["Pod shop/b"])
    assert {name.name for name in cluster.pods()} == {"a"}


ODD_PEER = {"podSelector": {"matchLabels": {"a": "b"}}, "policyTypes": ["Ingress"], "ingress": [{"from": [{}]}]}
ODD_SELECTOR = {"podSelector": {"matchExpressions": [{"key": "a", "operator": "Newer"}]}, "policyTypes": ["Egress"]}
ODD_TYPE = {"podSelector": {}, "policyTypes": ["Sideways"]}


ODD_STRUCTURE = {"podSelector": {"matchLabels": {"a": "b"}}, "policyTypes": ["Egress"], "egress": {"to": []}}


@pytest.mark.parametrize(
    ("spec", "directions", "selected"),
    [
        (ODD_PEER, (True, False), [{"a": "b"}]),
        (ODD_SELECTOR, (False, True), []),
        (ODD_TYPE, (True, True), [{}, {"a": "b"}]),
        (ODD_STRUCTURE, (False, True), [{"a": "b"}]),
    ],
)
def test_a_policy_that_is_not_understood_isolates_what_it_surely_selects_and_no_namespace(
    script: Script,
    source: tuple[KubernetesSource, Cluster],
    spec: dict[str, Any],
    directions: tuple[bool, bool],
    selected: list[dict[str, str]],
) -> None:
    script.pages[POLICIES, ""] = [(200, {"metadata": {"resourceVersion": "5"}, "items": [policy(spec)]})]
    cluster = start(source)
    assert cluster.synced.wait(240)
    found = cluster.policies()[Name("shop", "p")]
    assert (found.ingress is not None, found.egress is not None) == directions
    assert [labels for labels in ({}, {"a": "b"}) if matches(found.pods, labels)] == selected
    assert source[0].refused() == ["NetworkPolicy shop/p"]


def test_an_object_that_is_not_understood_is_logged_once_and_again_when_it_changes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    log = MagicMock()
    monkeypatch.setattr("enrich.sources.resources.log", log)
    reader = Reader(next(one for one in RESOURCES if one.type is NetworkPolicy))

    def read(spec: dict[str, Any]) -> list[str]:
        log.reset_mock()
        reader.read(msgspec.Raw(orjson.dumps(policy(spec))))
        return [f"{call.kwargs['object']} {call.kwargs['error']}" for call in log.error.call_args_list]

    assert read(ODD_PEER) == [
        "shop/p spec.ingress[0].from[0]: must specify a peer: podSelector, namespaceSelector or ipBlock"
    ]
    assert read(ODD_PEER) == []
    reader.begin()
    assert (read(ODD_PEER), reader.refused) == ([], {"shop/p"}), "another list says nothing new"
    assert "policyTypes[0]" in read(ODD_TYPE)[0]
    assert (read({"podSelector": {}}), reader.refused) == ([], set())
    reader.begin()
    assert len(read(ODD_TYPE)) == 1, "it was right in between"


def test_an_answer_that_is_no_kubernetes_is_tried_again(
    script: Script, source: tuple[KubernetesSource, Cluster]
) -> None:
    script.pages[PODS, ""] = [(200, {"html": "a proxy's page"})]
    cluster = start(source)
    until(lambda: script.seen(PODS) >= 2)
    assert "Pod" in cluster.missing()
    assert "Pod" in (source[0].problem() or "")
    del script.pages[PODS, ""]
    assert cluster.synced.wait(240)
    until(lambda: source[0].problem() is None)
