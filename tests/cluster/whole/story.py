"""Helpers that several of these tests use."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tests.cluster.whole.real import (
    AGNHOST,
    NAMESPACE,
    PORT,
    ROOT,
    Real,
    addresses,
    deployment,
    from_app,
    policy,
    run,
    until,
)

Pod = dict[str, Any]


def guard(real: Real) -> None:
    """Apply a policy that allows only client to connect to web, and wait until it is in force."""
    real.apply(policy("web-from-client", "web", ingress=[from_app("client", "http")]))
    (stranger,) = real.pods("stranger")
    for server in real.pods("web"):
        real.closes(stranger, addresses(server)[0])


def all_pairs(clients: Iterable[Pod], servers: Iterable[Pod]) -> list[tuple[Pod, str]]:
    """Return each client with each server's addresses: on the same node and another, by IPv4 and IPv6."""
    servers = list(servers)
    return [(client, address) for client in clients for server in servers for address in addresses(server)]


def at_once(connects: Callable[[Pod, str], bool], pairs: Iterable[tuple[Pod, str]]) -> list[bool]:
    """Try connections in parallel, because a denied one takes a second."""
    with ThreadPoolExecutor(4) as pool:
        return list(pool.map(lambda pair: connects(*pair), pairs))


def end_of(pod: Pod, app: str = "", kind: str = "Deployment") -> Pod:
    """Return the fields by which a record should name a pod; ``app`` is its workload's name, if it has a workload."""
    meta = pod["metadata"]
    return {
        "pod_name": meta["name"], "namespace": meta["namespace"], "pod_uid": meta["uid"],
        "node_name": pod["spec"]["nodeName"], **({"workload_kind": kind, "workload_name": app} if app else {}),
    }  # fmt: skip


def assert_named(record: Pod, side: str, pod: Pod, app: str = "", kind: str = "Deployment") -> None:
    """Assert that one end of a record names this pod."""
    expected = end_of(pod, app, kind)
    assert {key: record[side].get(key) for key in expected} == expected, record


def static_pod(name: str) -> Pod:
    """Make the manifest of a static pod, which a kubelet starts from a file."""
    return {
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "shop", "labels": {"app": name}},
        "spec": {"terminationGracePeriodSeconds": 0, "containers": [{
            "name": "main", "image": AGNHOST, "args": ["netexec", f"--http-port={PORT}"],
            "ports": [{"name": "http", "containerPort": PORT}],
            "readinessProbe": {"httpGet": {"path": "/healthz", "port": PORT}, "periodSeconds": 1},
        }]},
    }  # fmt: skip


def left_on(real: Real, node: str) -> list[str]:
    """Return everything of kubeweir that exists on a node."""
    found = real.on(node, "find", "/sys/fs/bpf", "-mindepth", "1", "-not", "-name", "*.debug").split()
    for link in json.loads(real.on(node, "ip", "-j", "link")):
        for hook in ("ingress", "egress"):
            found += real.on(node, "tc", "filter", "show", "dev", link["ifname"], hook).splitlines()
    found += [name for name in real.on(node, "ls", "/run/kubeweir").split() if name != "probe.lock"]
    found += real.on(node, "find", "/opt/cni/bin", "/etc/cni/net.d", "-name", "*weir-cni*").split()
    found += [
        line for line in real.on(node, "cat", "/etc/cni/net.d/10-weir.conflist").splitlines() if "weir-cni" in line
    ]
    return found


_TRAFFIC = """
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


class Loops:
    """Two pods that connect all the time: to the pods of web, which is allowed, and to stranger, which is denied."""

    def __init__(self, real: Real, web: Iterable[Pod], stranger: Pod) -> None:
        """Apply the policies and the pods, and wait until both have connected."""
        self._real = real
        allowed = ",".join(address for pod in web for address in addresses(pod))
        real.apply(policy("closed", "stranger", policyTypes=["Ingress"]))
        real.closes(real.pods("client")[0], addresses(stranger)[0])
        traffic = deployment("client-loop", 2)
        container = traffic["spec"]["template"]["spec"]["containers"][0]
        for key in ("readinessProbe", "livenessProbe", "args", "ports"):
            del container[key]
        name = run(ROOT / "deploy/image/build", "--name").strip()
        command = ["python3", "-c", _TRAFFIC, allowed, ",".join(addresses(stranger))]
        container |= {"image": name, "command": command}
        real.apply(policy("web-from-loop", "web", ingress=[from_app("client-loop")]), traffic)
        real.wait_ready("client-loop")
        until("traffic in both loops", lambda: all(one.get("allowed", 0) > 20 for one in self.counts()))

    def counts(self) -> list[dict[str, int]]:
        """Return what each pod has counted so far: connections allowed and refused, denied and through."""
        lines = [
            self._real.kubectl("-n", NAMESPACE, "logs", pod["metadata"]["name"], "--tail=1")
            for pod in sorted(self._real.pods("client-loop"), key=lambda one: str(one["metadata"]["name"]))
        ]
        return [json.loads((line or "{}").replace("'", '"')) for line in lines]

    def assert_undisturbed_since(self, before: list[dict[str, int]]) -> None:
        """Assert that all allowed connections since then were established, and no denied one."""
        for old, new in zip(before, self.counts(), strict=True):
            assert new["allowed"] > old["allowed"] + 20
            assert new["through"] == old["through"], (old, new)
            assert new["refused"] == old["refused"], (old, new)

    def end(self) -> None:
        """Remove the pods."""
        self._real.kubectl("-n", NAMESPACE, "delete", "deploy/client-loop")
