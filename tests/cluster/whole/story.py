"""Helpers that several of these tests use."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tests.cluster.whole.real import AGNHOST, PORT, Real, addresses, from_app, policy

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
