"""List and watch against a real kube-apiserver and etcd."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import kubernetes
import orjson
import pytest
from prometheus_client import CollectorRegistry

from enrich.index.cluster import KINDS, Cluster
from enrich.index.pod_facts import facts_at
from enrich.model import Name, Owner
from enrich.runtime.watching import SourceCollector
from enrich.sources.factory import make_source
from enrich.sources.kubernetes import KubernetesSource
from enrich.sources.source import SourceError
from enrich.sources.watch import Watch
from tests.cluster.apiserver import ApiServer, Way
from tests.waiting import until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1800)]

PODS = "/api/v1/namespaces/default/pods"
POLICIES = "/apis/networking.k8s.io/v1/namespaces/default/networkpolicies"


def make_pod(name: str, **labels: str) -> dict[str, Any]:
    container = {"name": "main", "image": "none", "ports": [{"name": "http", "containerPort": 8080}]}
    return {"metadata": {"name": name, "labels": labels}, "spec": {"nodeName": "n1", "containers": [container]}}


def make_policy(name: str, *ports: int) -> dict[str, Any]:
    ingress = [{"ports": [{"port": port} for port in ports]}]
    return {"metadata": {"name": name}, "spec": {"podSelector": {}, "policyTypes": ["Ingress"], "ingress": ingress}}


def give_ip(api: ApiServer, pod: str, ip: str) -> None:
    api.patch(f"{PODS}/{pod}/status", {"status": {"podIP": ip, "podIPs": [{"ip": ip}], "phase": "Running"}})


def is_logged(output: str, message: str, field: str) -> bool:
    """Whether a line has both; lines about other kinds come whenever they come."""
    return any(message in line and field in line for line in output.splitlines())


def pod_name(name: str) -> Name:
    return Name("default", name)


class Watched:
    """A source with its index, by a way that can be cut."""

    def __init__(self, api: ApiServer, user: str = "admin", kinds: Iterable[type] = KINDS) -> None:
        self.cluster = Cluster(kinds=kinds)
        self.way = Way(api.port)
        config = str(api.kubeconfig(user, self.way.port))
        self.source = KubernetesSource(self.cluster, lambda: kubernetes.config.new_client_from_config(config))
        self.source.start()

    def close(self) -> None:
        self.source.stop()
        self.way.close()


@pytest.fixture
def watched(api: ApiServer) -> Iterator[Watched]:
    made = Watched(api)
    try:
        assert made.cluster.synced.wait(240), made.source.problem()
        until(lambda: made.source.problem() is None)
        yield made
    finally:
        made.close()


def test_pods_come_change_and_go(api: ApiServer, watched: Watched) -> None:
    cluster = watched.cluster
    api.create(PODS, make_pod("web", app="web"))
    until(lambda: pod_name("web") in cluster.pods())
    assert cluster.addresses.owner_at("10.0.0.1", time.time_ns()).pod is None
    give_ip(api, "web", "10.0.0.1")
    until(lambda: cluster.addresses.owner_at("10.0.0.1", time.time_ns()).pod is not None)
    pod = cluster.pods()[pod_name("web")]
    assert (pod.ips, pod.node, pod.labels, pod.ports[0].port) == (("10.0.0.1",), "n1", {"app": "web"}, 8080)
    api.patch(f"{PODS}/web", {"metadata": {"labels": {"app": "api"}}})
    until(lambda: cluster.pods()[pod_name("web")].labels == {"app": "api"})
    api.delete(f"{PODS}/web")
    until(lambda: pod_name("web") not in cluster.pods())
    assert cluster.addresses.pod_by_uid(pod.uid) is not None


def test_every_kind_is_watched(api: ApiServer, watched: Watched) -> None:
    cluster = watched.cluster
    api.create("/api/v1/namespaces", {"metadata": {"name": "shop", "labels": {"team": "a"}}})
    api.create("/api/v1/nodes", {"metadata": {"name": "n1", "labels": {"topology.kubernetes.io/zone": "z1"}}})
    api.patch("/api/v1/nodes/n1/status", {"status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.1"}]}})
    service = api.create("/api/v1/namespaces/default/services", {
        "metadata": {"name": "web"}, "spec": {"ports": [{"port": 80}], "selector": {"app": "web"}},
    })  # fmt: skip
    api.create(POLICIES, make_policy("allow-web", 8080))
    until(lambda: cluster.node_of_ip("192.0.2.1") is not None)
    until(lambda: cluster.service_of(service["spec"]["clusterIP"]) is not None)
    until(lambda: pod_name("allow-web") in cluster.policies())
    until(lambda: Name("", "shop") in cluster.namespaces())
    assert cluster.nodes()[Name("", "n1")].zone == "z1"
    assert cluster.namespaces()[Name("", "shop")].labels["team"] == "a"
    api.patch(f"{POLICIES}/allow-web", make_policy("allow-web", 9090))
    until(lambda: cluster.policies()[pod_name("allow-web")].ingress[0].ports[0].port == 9090)  # type: ignore[index]
    api.delete(f"{POLICIES}/allow-web")
    until(lambda: pod_name("allow-web") not in cluster.policies())


def test_what_changed_is_known_as_of_then(api: ApiServer, watched: Watched) -> None:
    cluster = watched.cluster
    pod = make_pod("labelled", role="blue")
    api.create(PODS, pod)
    give_ip(api, "labelled", "10.0.3.9")
    tunnel = {"projectcalico.org/IPv4VXLANTunnelAddr": "10.0.3.64"}
    api.create("/api/v1/nodes", {"metadata": {"name": "n3", "annotations": tunnel}, "spec": {"podCIDR": "10.0.3.0/24"}})
    for port in (80, 443):
        spec = {"ports": [{"port": port}], "selector": {"app": "x"}, "externalIPs": ["198.51.100.7"]}
        api.create("/api/v1/namespaces/default/services", {"metadata": {"name": f"outer-{port}"}, "spec": spec})
    named = cluster.named_addresses
    until(lambda: named.node_at("10.0.3.64", time.time_ns()).owner == Name("", "n3"))

    def outer(port: int, at_ns: int) -> Name | None:
        return named.service_at("198.51.100.7", 6, port, at_ns).owner

    until(lambda: None not in [outer(port, time.time_ns()) for port in (80, 443)])
    assert [outer(port, time.time_ns()) for port in (80, 443)] == [pod_name("outer-80"), pod_name("outer-443")]
    until(lambda: pod_name("labelled") in cluster.pods() and bool(cluster.pods()[pod_name("labelled")].ips))
    before = time.time_ns()
    api.patch(f"{PODS}/labelled", {"metadata": {"labels": {"role": "green"}}})
    api.delete("/api/v1/namespaces/default/services/outer-80")
    until(lambda: cluster.pods()[pod_name("labelled")].labels == {"role": "green"})
    until(lambda: outer(80, time.time_ns() + 10**10) is None)
    found = cluster.pods()[pod_name("labelled")]
    assert facts_at(cluster, found, time.time_ns() + 10**10).labels == {"role": "green"}
    # The watch was in sync at the latest when it had the pod's address.
    assert facts_at(cluster, found, before - 10 * 10**9).labels == {"role": "blue"}
    assert outer(80, before - 10 * 10**9) == pod_name("outer-80")


def test_the_age_of_each_kind_is_a_metric(watched: Watched) -> None:
    registry = CollectorRegistry()
    registry.register(SourceCollector("streams", watched.source))
    for kind in ("Pod", "Node", "Service"):
        age = registry.get_sample_value("kubeweir_streams_watch_age_seconds", {"kind": kind})
        assert age is not None
        assert 0 <= age < 150


def test_workloads_come_as_metadata_and_name_what_runs_a_pod(api: ApiServer, watched: Watched) -> None:
    cluster = watched.cluster
    deployment = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web", "uid": "d-1", "controller": True}
    template = {"metadata": {"labels": {"app": "x"}}, "spec": {"containers": [{"name": "c", "image": "none"}]}}
    replicas = api.create("/apis/apps/v1/namespaces/default/replicasets", {
        "metadata": {"name": "web-abc", "ownerReferences": [deployment]},
        "spec": {"selector": {"matchLabels": {"app": "x"}}, "template": template},
    })  # fmt: skip
    owner = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-abc", "uid": replicas["metadata"]["uid"]}
    pod = make_pod("web-abc-1")
    pod["metadata"]["ownerReferences"] = [owner | {"controller": True}]
    api.create(PODS, pod)
    until(lambda: pod_name("web-abc-1") in cluster.pods() and cluster.counts()["Workload"] == 1)
    found = cluster.workload_of(cluster.pods()[pod_name("web-abc-1")])
    assert found == Owner("Deployment", "web", "d-1")
    watch = next(w for w in watched.source._watches if w.resource.kind == "ReplicaSet")
    with watch._get({"limit": "5"}, 10) as listed:
        item = orjson.loads(listed.read())["items"][0]
    assert item["metadata"]["name"] == "web-abc"
    assert "spec" not in item
    api.delete("/apis/apps/v1/namespaces/default/replicasets/web-abc")
    until(lambda: cluster.counts()["Workload"] == 0)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, str]]:
    """The queries that watches send."""
    queries: list[dict[str, str]] = []
    get = Watch._get

    def noting(watch: Watch, query: dict[str, str], silence_s: float) -> Any:
        queries.append(dict(query))
        return get(watch, query, silence_s)

    monkeypatch.setattr(Watch, "_get", noting)
    return queries


@pytest.mark.parametrize("way", ["WatchList", "pages"])
def test_lists_come_by_watch_list_and_in_pages(
    api: ApiServer, monkeypatch: pytest.MonkeyPatch, asked: list[dict[str, str]], way: str
) -> None:
    monkeypatch.setattr("enrich.sources.watch._PAGE", 3)
    if way == "pages":
        monkeypatch.setattr(Watch, "_watch_list", lambda _: False)
    for number in range(10):
        api.create(PODS, make_pod(f"{way.lower()}-{number}"))
    watched = Watched(api)
    try:
        assert watched.cluster.synced.wait(240)
        assert {f"{way.lower()}-{n}" for n in range(10)} <= {name.name for name in watched.cluster.pods()}
        assert sum("continue" in query for query in asked) >= (3 if way == "pages" else 0)
        assert any("sendInitialEvents" in query for query in asked) == (way == "WatchList")
        assert any("limit" in query for query in asked) == (way == "pages")
    finally:
        watched.close()


def test_a_cut_watch_goes_on_where_it_was(api: ApiServer, watched: Watched, capsys: pytest.CaptureFixture[str]) -> None:
    cluster = watched.cluster
    api.create(PODS, make_pod("before"))
    until(lambda: pod_name("before") in cluster.pods())
    capsys.readouterr()
    watched.way.cut()
    until(lambda: watched.source.problem() is not None)
    api.create(PODS, make_pod("meanwhile"))
    api.delete(f"{PODS}/before")
    assert pod_name("before") in cluster.pods(), "the cache that is stale stays in service"
    assert cluster.synced.is_set()
    watched.way.mend()
    until(lambda: pod_name("meanwhile") in cluster.pods() and pod_name("before") not in cluster.pods())
    until(lambda: watched.source.problem() is None)
    assert "listed" not in capsys.readouterr().out


def test_a_version_that_is_compacted_is_listed_again(
    api: ApiServer, watched: Watched, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster = watched.cluster
    api.create(PODS, make_pod("old"))
    until(lambda: pod_name("old") in cluster.pods())
    watched.way.cut()
    until(lambda: watched.source.problem() is not None)
    api.delete(f"{PODS}/old")
    api.create(PODS, make_pod("new"))
    api.compact()
    api.kill_server()  # its memory of older versions goes too
    api.start_server()
    capsys.readouterr()
    watched.way.mend()
    until(lambda: pod_name("new") in cluster.pods() and pod_name("old") not in cluster.pods())
    assert "relisting" in capsys.readouterr().out


def test_a_server_that_dies_and_comes_back(api: ApiServer, watched: Watched) -> None:
    api.kill_server()
    until(lambda: "cannot be reached" in (watched.source.problem() or ""))
    api.start_server()
    api.create(PODS, make_pod("after-restart"))
    until(lambda: pod_name("after-restart") in watched.cluster.pods())
    until(lambda: watched.source.problem() is None)


def test_what_is_not_permitted_is_said_and_nothing_is_ready(api: ApiServer) -> None:
    rules = [
        {
            "apiGroups": ["", "apps", "batch", "discovery.k8s.io", "networking.gke.io", "policy.networking.k8s.io"],
            "resources": ["*"],
            "verbs": ["get", "list", "watch"],
        },
    ]
    role, binding = "/apis/rbac.authorization.k8s.io/v1/clusterroles", "clusterrolebindings"
    api.create(role, {"metadata": {"name": "reader"}, "rules": rules})
    api.create(f"/apis/rbac.authorization.k8s.io/v1/{binding}", {
        "metadata": {"name": "reader"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "reader"},
        "subjects": [{"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": "reader"}],
    })  # fmt: skip
    watched = Watched(api, "reader")
    try:
        until(lambda: watched.cluster.missing() == ["NetworkPolicy"])
        until(lambda: "networkpolicies: not permitted (403)" in (watched.source.problem() or ""))
        assert not watched.cluster.synced.is_set()
        rules.append({"apiGroups": ["networking.k8s.io"], "resources": ["*"], "verbs": ["get", "list", "watch"]})
        api.patch(f"{role}/reader", {"rules": rules})
        assert watched.cluster.synced.wait(240), watched.source.problem()
        until(lambda: watched.source.problem() is None)
    finally:
        watched.close()


def test_a_bookmark_moves_the_version_without_an_event(
    api: ApiServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # A server sends one shortly before it ends a stream.
    monkeypatch.setattr("enrich.sources.messages._timeout_s", lambda: 4)
    watched = Watched(api)
    try:
        assert watched.cluster.synced.wait(240)
        pods = next(w for w in watched.source._watches if w.resource.kind == "Pod")
        before = pods._version
        api.create("/api/v1/namespaces/default/configmaps", {"metadata": {"generateName": "noise-"}})
        until(lambda: pods._version not in ("", before))
        capsys.readouterr()
        api.create(PODS, make_pod("after-bookmark"))
        until(lambda: pod_name("after-bookmark") in watched.cluster.pods())
        logged = capsys.readouterr().out
        assert not is_logged(logged, "listed", "kind=Pod")
        assert not is_logged(logged, "relisting", "kind=Pod")
    finally:
        watched.close()


def test_a_connection_that_hangs_is_left_for_another(
    api: ApiServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("enrich.sources.watch._SILENCE_S", 2.0)
    watched = Watched(api)
    try:
        assert watched.cluster.synced.wait(240)
        until(lambda: watched.source.problem() is None)
        watched.way.hang()
        api.create(PODS, make_pod("unheard"))
        until(lambda: pod_name("unheard") in watched.cluster.pods())
        # Other kinds leave their connections too, each at a time of its own: wait until all have a new one.
        until(lambda: watched.source.problem() is None)
        assert is_logged(capsys.readouterr().out, "no data from the server", "kind=Pod")
    finally:
        watched.close()


def test_a_token_that_is_renewed_on_disk(api: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    accounts = "/api/v1/namespaces/default/serviceaccounts"
    api.create(accounts, {"metadata": {"name": "probe"}})
    api.create("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", {
        "metadata": {"name": "probe"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
        "subjects": [{"kind": "ServiceAccount", "name": "probe", "namespace": "default"}],
    })  # fmt: skip
    file = tmp_path / "token"

    def renew(secret: str) -> str:
        """A token that is good as long as a secret is there."""
        made = api.create("/api/v1/namespaces/default/secrets", {"metadata": {"name": secret}})
        bound = {"kind": "Secret", "apiVersion": "v1", "name": secret, "uid": made["metadata"]["uid"]}
        spec = {"boundObjectRef": bound, "expirationSeconds": 600, "audiences": ["https://kubeweir.local"]}
        token = str(api.create(f"{accounts}/probe/token", {"spec": spec})["status"]["token"])
        file.write_text(token)
        return token

    old = renew("first")
    way = Way(api.port)
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(way.port))
    monkeypatch.setattr("kubernetes.config.incluster_config.SERVICE_TOKEN_FILENAME", str(file))
    monkeypatch.setattr("kubernetes.config.incluster_config.SERVICE_CERT_FILENAME", str(api.authority))
    monkeypatch.setattr("enrich.sources.client._MIN_RENEWAL_INTERVAL_S", 0.5)
    cluster = Cluster()
    source = KubernetesSource(cluster)
    source.start()
    try:
        assert cluster.synced.wait(240), source.problem()
        renew("second")
        api.delete("/api/v1/namespaces/default/secrets/first")
        until(lambda: api.status_with(old) == 401)
        way.cut()
        until(lambda: source.problem() is not None)
        way.mend()
        api.create(PODS, make_pod("after-renewal"))
        until(lambda: pod_name("after-renewal") in cluster.pods())
        until(lambda: source.problem() is None)
    finally:
        source.stop()
        way.close()


def test_credentials_that_are_not_accepted_are_said(api: ApiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    config = api.kubeconfig("reader")
    config.write_text(config.read_text().replace("reader-token", "wrong"))
    monkeypatch.setenv("KUBECONFIG", str(config))
    source = make_source("kubernetes", Cluster())
    source.start()
    try:
        until(lambda: "(401)" in (source.problem() or ""))
    finally:
        source.stop()


def test_stop_does_not_wait_for_the_server(api: ApiServer) -> None:
    watched = Watched(api)
    assert watched.cluster.synced.wait(240)
    until(lambda: watched.source.problem() is None)
    watched.source.stop()
    assert not any(watch.thread.is_alive() for watch in watched.source._watches)
    watched.close()


def test_no_configuration_is_an_error_that_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(SourceError, match="Set KUBECONFIG"):
        make_source("kubernetes", Cluster()).start()
