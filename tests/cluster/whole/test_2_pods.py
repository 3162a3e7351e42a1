"""Tests of all kinds of pods, whose interfaces and addresses appear in the order of a real kubelet, runtime and CNI."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from tests.cluster.whole.real import (
    AGNHOST,
    NAMESPACE,
    ROOT,
    TIMEOUT_S,
    Real,
    addresses,
    deployment,
    from_app,
    policy,
    run,
    until,
)
from tests.cluster.whole.story import Pod, assert_named, static_pod

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(5400), pytest.mark.usefixtures("guarded")]

CTR = ("/var/lib/weir/debian/usr/bin/ctr", "-n", "k8s.io")


def restarts(pod: Pod) -> int:
    """Return how often the pod's container was restarted."""
    count: int = pod["status"]["containerStatuses"][0]["restartCount"]
    return count


def is_ready(pod: Pod) -> bool:
    conditions = {c["type"]: c["status"] for c in pod["status"].get("conditions", [])}
    return conditions.get("Ready") == "True"


def test_the_kubelets_probes_are_allowed_where_all_else_is_denied(
    real: Real, web: list[Pod], clients: list[Pod], stranger: Pod
) -> None:
    for app in ("web", "client"):
        real.apply(policy(f"{app}-closed", app, policyTypes=["Ingress", "Egress"]))
    real.closes(web[0], addresses(stranger)[0])
    real.closes(clients[0], addresses(stranger)[0])
    before = {p["metadata"]["uid"]: restarts(p) for p in real.pods("web") + real.pods("client")}
    time.sleep(9)  # time for readiness probes, and for one more failed liveness probe than causes a restart
    for pod in real.pods("web") + real.pods("client"):
        assert restarts(pod) == before[pod["metadata"]["uid"]]
        assert is_ready(pod)
    real.kubectl("-n", NAMESPACE, "delete", "networkpolicy", "web-closed", "client-closed")
    real.opens(clients[0], addresses(stranger)[0])
    record = real.record(reason="node", direction="ingress", dest_ip=addresses(web[0])[0])
    assert record["src"] == {"node_name": web[0]["spec"]["nodeName"]}


def test_pods_on_the_hosts_network_are_not_under_policy(real: Real, clients: list[Pod]) -> None:
    host = deployment("host", 1, hostNetwork=True)
    container = host["spec"]["template"]["spec"]["containers"][0]
    container["args"] = ["netexec", "--http-port=18080", "--udp-port=18080"]
    container["ports"], container["readinessProbe"]["httpGet"]["port"] = [], 18080
    container["livenessProbe"]["tcpSocket"]["port"] = 18080
    real.apply(host, policy("host-closed", "host", policyTypes=["Ingress", "Egress"]))
    real.wait_ready("host")
    (pod,) = real.pods("host")
    for address in addresses(pod):
        assert real.connects(clients[0], address, port=18080)
    record = real.record(dest_ip=addresses(pod)[0], dest_port=18080, direction="egress")
    assert record["dest"] == {"node_name": pod["spec"]["nodeName"]}
    real.kubectl("-n", NAMESPACE, "delete", "deploy/host", "networkpolicy/host-closed")


def test_a_static_pod_is_under_policy_and_named_by_its_mirror(real: Real, clients: list[Pod], stranger: Pod) -> None:
    node, file = real.nodes()[0], "/var/lib/weir/manifests/static.json"
    real.apply(policy("static-from-client", "static", ingress=[from_app("client")]))
    real.on(node, "sh", "-c", f"cat >{file}", stdin=json.dumps(static_pod("static")))
    until("the static pod ready", lambda: any(is_ready(p) for p in real.pods("static")))
    (pod,) = real.pods("static")
    assert pod["metadata"]["name"] == f"static-{node}"
    for address in addresses(pod):
        real.opens(clients[0], address)
        real.closes(stranger, address)
    record = real.record(src_ip=addresses(stranger)[0], dest_ip=addresses(pod)[0], direction="ingress")
    assert record["disposition"] == "deny"
    assert_named(record, "dest", pod, node, "Node")
    real.on(node, "rm", file)
    until("the static pod gone", lambda: not real.pods("static"))


def test_an_init_container_is_under_the_pods_policy(real: Real, web: list[Pod], stranger: Pod) -> None:
    """The init container may reach what the policy allows and nothing else, before the pod's own containers start."""
    open_, closed = addresses(web[0])[0], addresses(stranger)[0]
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
    real.kubectl("-n", NAMESPACE, "wait", "--for=condition=Complete", "job/job", f"--timeout={TIMEOUT_S}s")
    (pod,) = real.pods("job")
    record = real.record(dest_ip=closed, direction="egress", disposition="deny", src_ip=addresses(pod)[0])
    assert_named(record, "src", pod, "job", "Job")


def bound(real: Real, node: str) -> set[str]:
    """Return the indexes of a node's interfaces for which links are pinned."""
    names = real.on(node, "find", "/sys/fs/bpf/kubeweir", "-path", "*/links/*_pod_egress").split()
    return {name.rsplit("/", 1)[1].split("_")[0] for name in names}


def veths(real: Real, node: str) -> set[str]:
    """Return the indexes of a node's veths that lead to pods."""
    links = json.loads(real.on(node, "ip", "-j", "link", "show", "type", "veth"))
    return {str(link["ifindex"]) for link in links if link["ifname"] != "eth0"}


def test_short_lived_pods_are_under_policy_and_leave_no_links(real: Real, stranger: Pod) -> None:
    real.apply(policy("churn-closed", "churn", policyTypes=["Ingress"]))
    for _ in range(2):
        real.apply(deployment("churn", 6))
        until("a few pods with addresses", lambda: sum("podIP" in p["status"] for p in real.pods("churn")) >= 3)
        real.kubectl("-n", NAMESPACE, "delete", "deploy/churn", "--wait=false")
    real.apply(deployment("churn", 4))
    real.wait_rolled_out("deploy/churn", NAMESPACE)
    for pod in real.pods("churn"):
        real.closes(stranger, addresses(pod)[0])
    real.kubectl("-n", NAMESPACE, "delete", "deploy/churn", "networkpolicy/churn-closed")
    for node in real.nodes():

        def same(node: str = node) -> bool:
            return bound(real, node) == veths(real, node)

        until(f"links for the interfaces of pods on {node}, and no others", same)


def test_a_pod_with_a_new_sandbox_is_under_policy_at_its_new_address(
    real: Real, web: list[Pod], clients: list[Pod], stranger: Pod
) -> None:
    pod = web[0]
    node, before = pod["spec"]["nodeName"], addresses(pod)
    uid, kind = '"io.kubernetes.pod.uid"', '"io.cri-containerd.kind"'
    chosen = f"labels.{uid}=={pod['metadata']['uid']},labels.{kind}==sandbox"
    listed = real.on(node, *CTR, "containers", "ls", "-q", chosen).split()
    assert len(listed) == 1
    real.moved.add(pod["metadata"]["uid"])
    real.on(node, *CTR, "tasks", "kill", "-s", "SIGKILL", listed[0])

    def current() -> Pod:
        return next(p for p in real.pods("web") if p["metadata"]["uid"] == pod["metadata"]["uid"])

    def has_new_address() -> bool:
        found: dict[str, Any] = current()
        return is_ready(found) and addresses(found) != before

    until("the same pod ready at another address", has_new_address)
    for address in addresses(current()):
        real.opens(clients[0], address)
        real.closes(stranger, address)
