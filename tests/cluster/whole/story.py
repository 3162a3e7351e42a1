"""What several of these tests do or expect."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tests.cluster.whole.real import AGNHOST, PORT, Real, addresses, from_app, policy

Pod = dict[str, Any]


def guard(real: Real) -> None:
    """web is for client only."""
    real.apply(policy("web-from-client", "web", ingress=[from_app("client", "http")]))
    (stranger,) = real.pods("stranger")
    for server in real.pods("web"):
        real.closes(stranger, addresses(server)[0])


def all_pairs(clients: Iterable[Pod], servers: Iterable[Pod]) -> list[tuple[Pod, str]]:
    """On the same node and on another, over IPv4 and IPv6."""
    servers = list(servers)
    return [(client, address) for client in clients for server in servers for address in addresses(server)]


def at_once(connects: Callable[[Pod, str], bool], pairs: Iterable[tuple[Pod, str]]) -> list[bool]:
    """Connections side by side: a denied one takes a second."""
    with ThreadPoolExecutor(4) as pool:
        return list(pool.map(lambda pair: connects(*pair), pairs))


def end_of(pod: Pod, app: str = "", kind: str = "Deployment") -> Pod:
    """How a record names a pod, from what kubectl says of it; ``app`` is what runs it, if anything does."""
    meta = pod["metadata"]
    return {
        "pod_name": meta["name"], "namespace": meta["namespace"], "pod_uid": meta["uid"],
        "node_name": pod["spec"]["nodeName"], **({"workload_kind": kind, "workload_name": app} if app else {}),
    }  # fmt: skip


def assert_named(record: Pod, side: str, pod: Pod, app: str = "", kind: str = "Deployment") -> None:
    """That one end of a record is this pod."""
    wanted = end_of(pod, app, kind)
    assert {key: record[side].get(key) for key in wanted} == wanted, record


def static_pod(name: str) -> Pod:
    """A server that a node's own kubelet starts, from a file."""
    return {
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "shop", "labels": {"app": name}},
        "spec": {"terminationGracePeriodSeconds": 0, "containers": [{
            "name": "main", "image": AGNHOST, "args": ["netexec", f"--http-port={PORT}"],
            "ports": [{"name": "http", "containerPort": PORT}],
            "readinessProbe": {"httpGet": {"path": "/healthz", "port": PORT}, "periodSeconds": 1},
        }]},
    }  # fmt: skip
