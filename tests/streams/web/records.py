"""Makes records for tests of the page."""

from __future__ import annotations

from typing import Any

from enrich.wire.flow import Connection, End, Flow, NamedPolicy


def make_flow(number: int = 0, source: str = "shop", destination: str = "shop", **more: Any) -> Flow:
    """Return an allow of web-0 to api-0; an empty namespace stands for an end outside the cluster."""
    given: dict[str, Any] = {
        "connection": Connection(
            src_ip="10.0.0.10", dest_ip="10.0.0.20", src_port=40000, dest_port=8080, protocol="tcp", direction="ingress"
        ),
        "disposition": "allow", "reason": "policy", "isolated_by": (),
        "policies": (NamedPolicy(kind="NetworkPolicy", namespace=destination or "shop", name="allow-web"),),
        "src": make_end(source, "web-0"), "dest": make_end(destination, "api-0"), "count": 1,
        "timestamp": f"2026-11-30T02:00:{number // 1000 % 60:02}.{number % 1000:03}000000Z",
        "last_timestamp": "2026-11-30T02:00:00.000000000Z", "node_name": "n1", "cluster": "c1", "schema": 1,
        "id": f"r1-{number}",
    }  # fmt: skip
    return Flow(**{**given, **more})


def make_end(namespace: str, pod: str) -> End:
    """Return a pod, or an address outside the cluster."""
    if not namespace:
        return End(instance="192.0.2.1")
    return End(pod_name=pod, namespace=namespace, pod_namespace=namespace, labels={"app": pod[:-2]}, node_name="n1")
