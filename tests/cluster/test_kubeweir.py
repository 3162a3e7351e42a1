"""kubeweir on a real Kubernetes of two nodes, installed by its own manifests from its own image.

The tests are one story, in this order: the cluster is dear. What they say of pods is compared with what kubectl says.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.real import (
    AGNHOST,
    HOST,
    NAMESPACE,
    PROGRAM,
    ROOT,
    Real,
    addresses,
    deployment,
    from_app,
    missing_numbers,
    policy,
    run,
    until,
)  # fmt: skip

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1200)]

AUDIT_LOG = Path("/var/lib/kubeweir-cluster/logs/audit.log")
SYSTEM = "kubeweir"
LABEL = "app.kubernetes.io/name"


@pytest.fixture(scope="module")
def image() -> str:
    """The archive of kubeweir's image."""
    if shutil.which("go") is None and subprocess.run([ROOT / "deploy/local/binaries", "--if-built", "cluster"],
                                                     capture_output=True, check=False).returncode:  # fmt: skip
        pytest.skip("needs Go, to build Kubernetes (deploy/local/binaries): no test ran on a real cluster")
    return run(ROOT / "deploy/image/build", patience_s=560).strip()


@pytest.fixture(scope="module")
def real(image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Real]:
    """The cluster, with Kafka and kubeweir."""
    if subprocess.run([PROGRAM, "status"], capture_output=True, check=False).returncode == 0:
        pytest.skip("a cluster is up already: take it down (make cluster-down), and the tests make their own")
    folder = tmp_path_factory.mktemp("cluster")
    try:
        run(PROGRAM, "up")
        made = Real(folder)
        made.kafka = run(ROOT / "deploy/local/kafka", "start", "--host", HOST, "--dir", folder / "kafka").strip()
        run(PROGRAM, "load", image)
        install(made)
        yield made
    finally:
        run(PROGRAM, "down")
        run(ROOT / "deploy/local/kafka", "stop", "--dir", folder / "kafka")


def install(real: Real) -> None:
    """As a user does it: their settings in an overlay."""
    shutil.copytree(ROOT / "deploy/kubernetes", real.folder / "kubernetes")
    overlay = real.folder / "overlay"
    overlay.mkdir()
    settings = [f"WEIR_KAFKA={real.kafka}", "WEIR_PARTITIONS=4"]
    (overlay / "kustomization.yaml").write_text(json.dumps({
        "resources": ["../kubernetes"],
        "namespace": SYSTEM,
        "configMapGenerator": [{"name": "kubeweir-settings", "behavior": "merge", "literals": settings}],
    }))  # fmt: skip
    real.kubectl("create", "namespace", NAMESPACE)
    real.kubectl("apply", "-k", overlay, "--validate=strict")
    web = deployment("web", 2)
    named = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"}, "spec": {
        "selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": "http"}],
        "ipFamilyPolicy": "RequireDualStack", "type": "NodePort",
    }}  # fmt: skip
    real.apply(web, deployment("client", 2), deployment("stranger"), named)
    real.kubectl("-n", SYSTEM, "rollout", "status", "ds/weir-probe", "--timeout=240s")
    real.kubectl("-n", SYSTEM, "rollout", "status", "deploy/weir-streams", "--timeout=240s")
    real.wait_ready("web", "client", "stranger")


@pytest.fixture
def web(real: Real) -> list[dict[str, Any]]:
    return real.pods("web")


@pytest.fixture
def clients(real: Real) -> list[dict[str, Any]]:
    return real.pods("client")


@pytest.fixture
def stranger(real: Real) -> dict[str, Any]:
    return real.pods("stranger")[0]


def all_pairs(clients: list[dict[str, Any]], servers: list[dict[str, Any]]) -> list[tuple[dict[str, Any], str]]:
    """On the same node and on another, over IPv4 and IPv6."""
    return [(client, address) for client in clients for server in servers for address in addresses(server)]


def test_without_policy_all_is_open(real: Real, web: list[dict[str, Any]], clients: list[dict[str, Any]]) -> None:
    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(lambda pair: real.connects(*pair), all_pairs(clients, web)))


def test_a_policy_lets_one_in_and_keeps_the_others_out(
    real: Real, web: list[dict[str, Any]], clients: list[dict[str, Any]], stranger: dict[str, Any]
) -> None:
    real.apply(policy("web-from-client", "web", ingress=[from_app("client", "http")]))
    for server in web:
        real.closes(stranger, addresses(server)[0])
    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(lambda pair: real.connects(*pair), all_pairs(clients, web)))
        assert not any(pool.map(lambda pair: real.connects(*pair), all_pairs([stranger], web)))
    # UDP of pods that are older than the probe is taken for replies in its first minute.
    for address in addresses(web[0]):
        real.closes(clients[0], address, protocol="udp")


def end_of(pod: dict[str, Any], app: str) -> dict[str, Any]:
    """How a record names a pod, from what kubectl says of it."""
    meta = pod["metadata"]
    return {
        "pod_name": meta["name"], "namespace": meta["namespace"], "pod_uid": meta["uid"],
        "workload_kind": "Deployment", "workload_name": app, "node_name": pod["spec"]["nodeName"],
    }  # fmt: skip


def test_records_name_what_kubectl_names(
    real: Real, web: list[dict[str, Any]], clients: list[dict[str, Any]], stranger: dict[str, Any]
) -> None:
    for source, app, disposition in ((clients[0], "client", "allow"), (stranger, "stranger", "deny")):
        for server in web:
            for family in (0, 1):
                ip, there = addresses(source)[family], addresses(server)[family]
                record = real.record(src_ip=ip, dest_ip=there, direction="ingress", disposition=disposition,
                                     protocol="tcp")  # fmt: skip
                for end, pod, name in ((record["src"], source, app), (record["dest"], server, "web")):
                    wanted = end_of(pod, name)
                    assert {key: end.get(key) for key in wanted} == wanted, record
                assert record["node_name"] == server["spec"]["nodeName"]
                named = record["policies"] if disposition == "allow" else record["isolated_by"]
                assert [(p["namespace"], p["name"]) for p in named] == [(NAMESPACE, "web-from-client")]


def test_a_service_is_judged_at_its_backends(
    real: Real, clients: list[dict[str, Any]], stranger: dict[str, Any]
) -> None:
    for address in real.get("service", "web")["spec"]["clusterIPs"]:
        # Four times: to the backends of both nodes.
        assert all(real.connects(clients[0], address, port=80) for _ in range(4))
        assert not any(real.connects(stranger, address, port=80) for _ in range(2))


def restarts(pod: dict[str, Any]) -> int:
    """How often its container was started again."""
    count: int = pod["status"]["containerStatuses"][0]["restartCount"]
    return count


def test_the_kubelet_gets_through_where_nobody_else_does(
    real: Real, web: list[dict[str, Any]], stranger: dict[str, Any]
) -> None:
    real.apply(policy("web-closed", "web", policyTypes=["Ingress", "Egress"]))
    real.closes(web[0], addresses(stranger)[0])
    before = {p["metadata"]["uid"]: restarts(p) for p in real.pods("web")}
    time.sleep(9)  # readiness probes each second, and one more liveness probe than would restart it
    for pod in real.pods("web"):
        assert restarts(pod) == before[pod["metadata"]["uid"]]
        assert next(c for c in pod["status"]["conditions"] if c["type"] == "Ready")["status"] == "True"
    real.kubectl("-n", NAMESPACE, "delete", "networkpolicy", "web-closed")


def test_pods_of_the_hosts_network_are_left_alone(real: Real, clients: list[dict[str, Any]]) -> None:
    host = deployment("host", 1, hostNetwork=True)
    container = host["spec"]["template"]["spec"]["containers"][0]
    container["args"] = ["netexec", "--http-port=18080", "--udp-port=18080"]
    container["ports"], container["readinessProbe"]["httpGet"]["port"] = [], 18080
    container["livenessProbe"]["tcpSocket"]["port"] = 18080
    real.apply(host, policy("host-closed", "host", policyTypes=["Ingress", "Egress"]))
    real.wait_ready("host")
    (pod,) = real.pods("host")
    assert real.connects(clients[0], addresses(pod)[0], port=18080)
    real.kubectl("-n", NAMESPACE, "delete", "deploy/host", "networkpolicy/host-closed")


def test_an_init_container_is_under_the_pods_policy(real: Real, web: list[dict[str, Any]]) -> None:
    """It may reach what the policy allows, and nothing else: tried before the pod's own containers are there."""
    open_, closed = addresses(web[0])[0], addresses(real.pods("stranger")[0])[0]
    real.apply(
        policy("job-egress", "job", policyTypes=["Egress"],
               egress=[{"to": [{"podSelector": {"matchLabels": {"app": "web"}}}]}]),
        policy("web-from-job", "web", ingress=[from_app("job")]),
    )  # fmt: skip
    script = (
        "import socket,sys\n"
        "def connects(ip):\n"
        "    try: socket.create_connection((ip, 8080), 2).close(); return True\n"
        "    except TimeoutError: return False\n"
        f"while not connects('{open_}'): pass\n"
        f"sys.exit(connects('{closed}'))\n"
    )
    name = run(ROOT / "deploy/image/build", "--name").strip()
    real.apply({
        "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "job"},
        "spec": {"backoffLimit": 0, "template": {"metadata": {"labels": {"app": "job"}}, "spec": {
            "restartPolicy": "Never",
            "initContainers": [{"name": "init", "image": name, "command": ["python3", "-c", script]}],
            "containers": [{"name": "main", "image": AGNHOST, "args": ["--help"]}],
        }}},
    })  # fmt: skip
    real.kubectl("-n", NAMESPACE, "wait", "--for=condition=Complete", "job/job", "--timeout=120s")
    denied = {"dest_ip": closed, "direction": "egress"}
    until("a denial of the init container's", lambda: any(
        denied.items() <= r["connection"].items() and r["src"].get("workload_name") == "job"
        for r in real.records("flows.denied")
    ))  # fmt: skip


def bound(real: Real, node: str) -> set[str]:
    """Interfaces of a node that have links pinned, by index."""
    names = real.on(node, "find", "/sys/fs/bpf/kubeweir", "-path", "*/links/*_pod_egress").split()
    return {name.rsplit("/", 1)[1].split("_")[0] for name in names}


def veths(real: Real, node: str) -> set[str]:
    """A node's veths that lead to pods, by index."""
    links = json.loads(real.on(node, "ip", "-j", "link", "show", "type", "veth"))
    return {str(link["ifindex"]) for link in links if link["ifname"] != "eth0"}


def test_pods_that_come_and_go_fast_leave_nothing_and_are_closed(real: Real, stranger: dict[str, Any]) -> None:
    real.apply(policy("churn-closed", "churn", policyTypes=["Ingress"]))
    for _ in range(3):
        real.apply(deployment("churn", 6))
        until("a few pods with addresses", lambda: sum("podIP" in p["status"] for p in real.pods("churn")) >= 3)
        real.kubectl("-n", NAMESPACE, "delete", "deploy/churn", "--wait=false")
    real.apply(deployment("churn", 4))
    real.kubectl("-n", NAMESPACE, "rollout", "status", "deploy/churn", "--timeout=120s")
    for pod in real.pods("churn"):
        real.closes(stranger, addresses(pod)[0])
    real.kubectl("-n", NAMESPACE, "delete", "deploy/churn", "networkpolicy/churn-closed")
    for node in real.nodes():
        until(f"no more links than pods on {node}", lambda node=node: bound(real, node) == veths(real, node))


def test_a_sandbox_made_anew_is_judged_at_its_new_address(
    real: Real, web: list[dict[str, Any]], clients: list[dict[str, Any]], stranger: dict[str, Any]
) -> None:
    pod = web[0]
    node, before = pod["spec"]["nodeName"], addresses(pod)
    ctr = ["/var/lib/weir/debian/usr/bin/ctr", "-n", "k8s.io"]
    uid, kind = '"io.kubernetes.pod.uid"', '"io.cri-containerd.kind"'
    chosen = f"labels.{uid}=={pod['metadata']['uid']},labels.{kind}==sandbox"
    listed = real.on(node, *ctr, "containers", "ls", "-q", chosen).split()
    assert len(listed) == 1
    real.on(node, *ctr, "tasks", "kill", "-s", "SIGKILL", listed[0])

    def again() -> bool:
        found = next(p for p in real.pods("web") if p["metadata"]["uid"] == pod["metadata"]["uid"])
        ready = next(c for c in found["status"]["conditions"] if c["type"] == "Ready")["status"]
        return ready == "True" and addresses(found) != before

    until("the same pod ready at another address", again)
    there = addresses(next(p for p in real.pods("web") if p["metadata"]["uid"] == pod["metadata"]["uid"]))
    for address in there:
        real.opens(clients[0], address)
        real.closes(stranger, address)


TRAFFIC = """
import socket, sys, time
allowed, denied = sys.argv[1].split(","), sys.argv[2].split(",")
counts = {"allowed": 0, "refused": 0, "denied": 0, "through": 0}
def connects(ip, wait):
    try:
        socket.create_connection((ip, 8080), wait).close()
        return True
    except OSError:
        return False
while True:
    for ip in allowed:
        counts["allowed" if connects(ip, 5) else "refused"] += 1
    for ip in denied:
        counts["through" if connects(ip, 0.05) else "denied"] += 1
    print(counts, flush=True)
"""


def test_a_rolling_update_under_traffic_opens_nothing_and_cuts_nothing(
    real: Real, web: list[dict[str, Any]], stranger: dict[str, Any]
) -> None:
    name = run(ROOT / "deploy/image/build", "--name").strip()
    allowed = ",".join(a for pod in web for a in addresses(pod))
    real.apply(policy("closed", "stranger", policyTypes=["Ingress"]))
    real.closes(real.pods("client")[0], addresses(stranger)[0])
    denied = ",".join(addresses(stranger))
    traffic = deployment("client-loop", 2)
    container = traffic["spec"]["template"]["spec"]["containers"][0]
    for key in ("readinessProbe", "livenessProbe", "args", "ports"):
        del container[key]
    container |= {"image": name, "command": ["python3", "-c", TRAFFIC, allowed, denied]}
    real.apply(policy("web-from-loop", "web", ingress=[from_app("client-loop")]), traffic)
    real.wait_ready("client-loop")

    def counts() -> list[dict[str, int]]:
        lines = [
            real.kubectl("-n", NAMESPACE, "logs", p["metadata"]["name"], "--tail=1") for p in real.pods("client-loop")
        ]
        return [json.loads((line or "{}").replace("'", '"')) for line in lines]  # fmt: skip

    until("traffic in both loops", lambda: all(c.get("allowed", 0) > 20 for c in counts()))
    before = counts()
    real.kubectl("-n", SYSTEM, "rollout", "restart", "ds/weir-probe")
    real.kubectl("-n", SYSTEM, "rollout", "status", "ds/weir-probe", "--timeout=240s")
    after = counts()
    for old, new in zip(before, after, strict=True):
        assert new["allowed"] > old["allowed"] + 20
        assert new["through"] == old["through"], (old, new)
        assert new["refused"] == old["refused"], (old, new)
    real.kubectl("-n", NAMESPACE, "delete", "deploy/client-loop")
    until("records without a gap", lambda: not missing_numbers(real.records()), 30)
    assert not [r for r in real.records("status") if r.get("lost")]


def test_nothing_was_asked_for_that_the_account_may_not(real: Real) -> None:
    events = [json.loads(line) for line in AUDIT_LOG.read_text().splitlines()]
    assert {e["user"]["username"].rpartition(":")[2] for e in events} == {"weir-probe", "weir-streams"}
    refused = {(e["user"]["username"], e["verb"], e["requestURI"].partition("?")[0], e["responseStatus"]["code"])
               for e in events if e["responseStatus"]["code"] in (401, 403)}  # fmt: skip
    assert not refused


def test_uninstalling_opens_everything_and_leaves_nothing(
    real: Real, web: list[dict[str, Any]], stranger: dict[str, Any]
) -> None:
    assert not real.connects(stranger, addresses(real.pods("web")[0])[0])
    real.kubectl("delete", "-k", real.folder / "overlay", "--timeout=120s")
    for pod in real.pods("web"):
        for address in addresses(pod):
            assert real.connects(stranger, address)
    for node in real.nodes():
        assert real.on(node, "find", "/sys/fs/bpf", "-mindepth", "1", "-not", "-name", "*.debug") == ""
        for link in json.loads(real.on(node, "ip", "-j", "link")):
            for hook in ("ingress", "egress"):
                assert real.on(node, "tc", "filter", "show", "dev", link["ifname"], hook) == ""
        assert "ledger" not in real.on(node, "ls", "/run/kubeweir")
    assert "kubeweir" not in real.kubectl("get", "clusterroles,clusterrolebindings,namespaces", "-o", "name")
