"""`weir explain` asks a real kube-apiserver."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import orjson
import pytest
import yaml

from tests.cluster.apiserver import ApiServer
from tests.cluster.test_kubernetes_source import PODS, POLICIES, give_ip, make_pod, make_policy

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1800)]


def explain(api: ApiServer, user: str, *arguments: str, seconds: int = 60) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [Path(sys.prefix) / "bin/weir", "explain", "--source", "kubernetes", *arguments],
        env={**os.environ, "KUBECONFIG": str(api.kubeconfig(user)), "WEIR_EXPLAIN_SECONDS": str(seconds)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def pods(api: ApiServer) -> None:
    for name, ip in (("client", "10.0.0.1"), ("server", "10.0.0.2")):
        api.create(PODS, make_pod(name, app=name))
        give_ip(api, name, ip)


@pytest.mark.usefixtures("pods")
def test_the_verdict_follows_the_servers_policies(api: ApiServer) -> None:
    before = explain(api, "admin", "default/client", "default/server:http", "-o", "json")
    assert (before.returncode, before.stderr) == (0, "")
    assert orjson.loads(before.stdout)["answers"][0]["sides"][1]["reason"] == "no_policy"
    api.create(POLICIES, make_policy("only-9090", 9090))
    after = explain(api, "admin", "default/client", "default/server:http")
    assert (after.returncode, after.stderr) == (1, "")
    assert (
        "default/only-9090: no rule matches\n    rule 0 does not match: port 8080/TCP is not among 9090/TCP"
        in after.stdout
    )
    api.patch(f"{POLICIES}/only-9090", {"metadata": {"annotations": {"kubeweir.io/mode": "adit"}}})
    wrong = explain(api, "admin", "default/client", "default/server:http")
    assert wrong.returncode == 1
    assert "note: NetworkPolicy default/only-9090 cannot be interpreted in full: what is wrong" in wrong.stdout
    service = api.create("/api/v1/namespaces/default/services", {
        "metadata": {"name": "web"}, "spec": {"ports": [{"port": 80}], "selector": {"app": "server"}},
    })["spec"]["clusterIP"]  # fmt: skip
    dialled = explain(api, "admin", "default/client", f"{service}:80")
    assert dialled.returncode == 2
    assert f"{service} is the address of Service default/web" in dialled.stdout


@pytest.mark.usefixtures("pods")
def test_an_account_without_rights_is_2_and_says_so(api: ApiServer) -> None:
    done = explain(api, "reader", "default/client", "default/server:http", seconds=5)
    assert (done.returncode, done.stdout) == (2, "")
    assert "/api/v1/pods: not permitted (403)" in done.stderr


def test_a_suggestion_that_is_applied_allows_the_connection_and_nothing_else(api: ApiServer) -> None:
    """Both ends are isolated, in two namespaces, so that it takes a policy at each."""
    for number, (namespace, app) in enumerate((("suggest-a", "web"), ("suggest-b", "db"))):
        api.create("/api/v1/namespaces", {"metadata": {"name": namespace}})
        for index, name in enumerate((app, f"other-{app}")):
            pods, ip = f"/api/v1/namespaces/{namespace}/pods", f"10.0.{number + 1}.{index + 1}"
            api.create(pods, make_pod(name, app=name))
            api.patch(f"{pods}/{name}/status", {"status": {"podIP": ip, "podIPs": [{"ip": ip}], "phase": "Running"}})
        both = {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
        api.create(policies_of(namespace), {"metadata": {"name": "nothing"}, "spec": both})
    ends = ("suggest-a/web", "suggest-b/db:8080")
    asked = explain(api, "admin", *ends, "--suggest", "-o", "json")
    assert (asked.returncode, asked.stderr) == (1, "")
    suggested = orjson.loads(asked.stdout)["suggestion"]["policies"]
    assert [one["metadata"]["namespace"] for one in suggested] == ["suggest-a", "suggest-b"]
    assert [item["metadata"]["name"] for item in api.get(policies_of("suggest-b"))["items"]] == ["nothing"]
    shown = explain(api, "admin", *ends, "--suggest").stdout
    found = [one for one in yaml.safe_load_all(shown[shown.index("apiVersion: ") :]) if one]
    assert found == suggested, "the text is what can be applied"
    for one in suggested:
        assert explain(api, "admin", *ends).returncode == 1, "all of them are needed"
        api.create(policies_of(one["metadata"]["namespace"]), one)
    allowed = explain(api, "admin", *ends, "--suggest", "-o", "json")
    assert allowed.returncode == 0
    assert orjson.loads(allowed.stdout)["suggestion"]["policies"] == []
    for others in (("suggest-a/web", "suggest-b/db:8081"), ("suggest-a/web", "suggest-b/other-db:8080"),
                   ("suggest-a/other-web", "suggest-b/db:8080"), ("suggest-b/db", "suggest-a/web:8080")):  # fmt: skip
        assert explain(api, "admin", *others).returncode == 1, others


def policies_of(namespace: str) -> str:
    return f"/apis/networking.k8s.io/v1/namespaces/{namespace}/networkpolicies"
