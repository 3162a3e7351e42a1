"""The past that the tests of Hubble's API read, and the flags of `hubble observe` with the conditions of `weir observe`
that mean the same of it. ``docs/hubble-flags.md`` is made from them (``make docs``)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any, Final, NamedTuple

import orjson
from confluent_kafka import Producer

from tests.kafka.site import PATIENCE_S, Site

_PODS: Final[dict[str, dict[str, Any]]] = {
    "web": {
        "pod_name": "web-0", "namespace": "shop", "labels": {"app": "web"}, "workload_kind": "Deployment",
        "workload_name": "web", "node_name": "n1",
    },
    "api": {
        "pod_name": "api-0", "namespace": "back", "labels": {"app": "api", "app.kubernetes.io/part-of": "shop"},
        "workload_kind": "Deployment", "workload_name": "api", "node_name": "n2",
    },
    "db": {
        "pod_name": "db-0", "namespace": "back", "labels": {"app": "db"}, "workload_kind": "StatefulSet",
        "workload_name": "db", "node_name": "n2",
    },
    "tool": {"pod_name": "tool-1", "namespace": "default", "labels": {}, "node_name": "n1"},
}  # fmt: skip
_ALLOW_API: Final = {"kind": "NetworkPolicy", "namespace": "back", "name": "api-from-web"}
_DENY_ALL: Final = {"kind": "NetworkPolicy", "namespace": "back", "name": "default-deny"}
_NO_METADATA: Final = {"kind": "ClusterNetworkPolicy", "name": "no-metadata"}


@cache
def start() -> datetime:
    """Return when the first flow was, of which there is one a second: some minutes before the first call. The role
    forgets nodes after an hour, and between the import and the first test there may be half of one."""
    return datetime.now(UTC).replace(microsecond=0) - timedelta(minutes=5)


def _flow(src: Any, dest: Any, *, direction: str = "egress", node: str = "n1", cluster: str = "c1", **more: Any) -> Any:
    connection = {
        "src_ip": "10.0.0.1", "dest_ip": "10.0.0.2", "src_port": 40000, "dest_port": 8080, "protocol": "tcp",
        "direction": direction, **more.pop("connection", {}),
    }  # fmt: skip
    connection = {key: value for key, value in connection.items() if value is not None}
    return {
        "connection": connection, "disposition": "allow", "reason": "policy", "policies": [_ALLOW_API],
        "isolated_by": [], "src": _PODS.get(src, src) if isinstance(src, str) else src,
        "dest": _PODS.get(dest, dest) if isinstance(dest, str) else dest, "count": 1, "node_name": node,
        "cluster": cluster, "schema": 1, **more,
    }  # fmt: skip


def _kinds() -> Iterator[tuple[int, Any]]:
    """Yield how many there are of each kind of flow, and the flow."""
    dialled = {"ip": "10.96.0.9", "port": 80, "service": {"namespace": "back", "name": "api"}}
    denied: dict[str, Any] = {
        "disposition": "deny",
        "reason": "default_deny",
        "policies": [],
        "isolated_by": [_DENY_ALL],
    }
    yield 10, _flow("web", "api", dialled=dialled)
    yield 5, _flow("tool", "api", direction="ingress", node="n2", connection={"dest_port": 443, "src_port": 40001},
                   **denied)  # fmt: skip
    yield 3, _flow("web", {"instance": "169.254.169.254"}, disposition="deny", reason="explicit_deny",
                   policies=[_NO_METADATA], connection={"dest_ip": "169.254.169.254", "dest_port": 80})  # fmt: skip
    yield 4, _flow("web", "db", connection={"protocol": "udp", "dest_port": 53, "src_ip": "fd00::1",
                                            "dest_ip": "fd00::2"})  # fmt: skip
    ping = {"protocol": "icmp", "src_port": None, "dest_port": None}
    yield 2, _flow("tool", "db", direction="ingress", node="n2", icmp={"type": 8, "code": 0}, connection=ping, **denied)
    yield 3, _flow({"node_name": "n2"}, "db", direction="ingress", node="n2", reason="node", policies=[])
    yield 2, _flow({"node_name": "n3"}, "db", direction="ingress", node="n2", reason="no_policy", policies=[])
    yield 2, _flow("web", "db", direction="ingress", node="n2", **{**denied, "disposition": "audit"})
    flood = {"src_ip": None, "dest_ip": None, "src_port": None, "dest_port": None, "protocol": None}
    yield 1, _flow({}, "db", direction="ingress", node="n2", count=500, aggregated=True, connection=flood, **denied)
    yield 3, _flow("web", "api", cluster="c2", node="n9")
    yield 2, _flow("api", "db", connection={"protocol": "sctp", "dest_port": 3868})
    payments = {"instance": "203.0.113.5", "service": {"namespace": "shop", "name": "payments"}}
    outside = {"dest_ip": "203.0.113.5", "dest_port": 443}
    yield 1, _flow("api", payments, connection=outside, policies=[], reason="no_policy")


def records() -> list[dict[str, Any]]:
    """All flows, oldest first; kinds alternate."""
    kinds = [[flow] * count for count, flow in _kinds()]
    found = [kind[at] for at in range(max(map(len, kinds))) for kind in kinds if at < len(kind)]
    return [
        {**flow, "id": f"r-{number}", "timestamp": time_of(number), "last_timestamp": time_of(number)}
        for number, flow in enumerate(found)
    ]


def time_of(number: int) -> str:
    """When a flow was, as records have it."""
    return f"{start() + timedelta(seconds=number):%Y-%m-%dT%H:%M:%S}.000000000Z"


def rfc3339(number: int) -> str:
    """When a flow was, as both commands take it."""
    return f"{start() + timedelta(seconds=number):%Y-%m-%dT%H:%M:%SZ}"


def write_records(site: Site) -> int:
    """Write all flows, and denials and audits to their topic, too; return how many flows there are."""
    producer = Producer({**site.connection, "partitioner": "murmur2_random"})
    found = records()
    for number, record in enumerate(found):
        subject = record["dest" if record["connection"]["direction"] == "ingress" else "src"]
        key, at = f"{subject['namespace']}/{subject['pod_name']}", int(start().timestamp() + number) * 1000
        for topic in ("flows", *(["flows.denied"] if record["disposition"] != "allow" else [])):
            producer.produce(f"{site.prefix}.{topic}", orjson.dumps(record), key, timestamp=at)
    assert producer.flush(PATIENCE_S) == 0
    return len(found)


class Flag(NamedTuple):
    """A flag of `hubble observe`, and what asks `weir observe` for the same."""

    flag: str
    hubble: Sequence[str]
    weir: Sequence[str]
    flows: int
    """How many flows of the past fit."""


_EVERYTHING: Final = ("--since", "3d")


def _cel(text: str) -> tuple[str, ...]:
    return ("--cel", text)


TWELFTH, THIRTIETH = "TIME-12", "TIME-30"
"""Stand for the times of these flows."""
FLAGS: Final = (
    Flag("--all", (), (), 38),
    Flag("--last", ("--last", "5"), ("--last", "5"), 5),
    Flag("--first", ("--first", "5"), (), 5),
    Flag("--since", ("--since", THIRTIETH), ("--since", THIRTIETH), 8),
    Flag("--until", ("--until", TWELFTH), ("--until", TWELFTH), 12),
    Flag("--uuid", ("--uuid", "r-3"), ("--id", "r-3"), 1),
    Flag("--node-name", ("--node-name", "n2"), ("--node", "n2"), 15),
    Flag("--node-name", ("--node-name", "c2/n*"), ("--node", "n*", "--cluster", "c2"), 3),
    Flag("--cluster", ("--cluster", "c2"), ("--cluster", "c2"), 3),
    Flag("--from-cluster", ("--from-cluster", "c2"), ("--cluster", "c2", "--from", "*/*"), 3),
    Flag("--to-cluster", ("--to-cluster", "c2"), ("--cluster", "c2", "--to", "*/*"), 3),
    Flag("--protocol", ("--protocol", "udp"), ("--protocol", "udp"), 4),
    Flag("--protocol", ("--protocol", "icmp"), ("--protocol", "icmp", "--protocol", "icmpv6"), 2),
    Flag("--type", ("--type", "drop"), ("--verdict", "deny"), 11),
    Flag("--type", ("--type", "policy-verdict"), (), 38),
    Flag("--verdict", ("--verdict", "DROPPED"), ("--verdict", "deny"), 11),
    Flag("--verdict", ("--verdict", "AUDIT"), ("--verdict", "audit"), 2),
    Flag("--drop-reason-desc", ("--drop-reason-desc", "POLICY_DENY"), ("--reason", "explicit_deny"), 3),
    Flag("--drop-reason-desc", ("--drop-reason-desc", "POLICY_DENIED"),
         ("--verdict", "deny", "--reason", "default_deny"), 8),
    Flag("--ip", ("--ip", "10.0.0.1"), ("--cidr", "10.0.0.1"), 33),
    Flag("--from-ip", ("--from-ip", "fd00::/64"), ("--from", "fd00::/64"), 4),
    Flag("--to-ip", ("--to-ip", "169.254.0.0/16"), ("--to", "169.254.0.0/16"), 3),
    Flag("--ip-version", ("--ip-version", "4"), ("--cidr", "0.0.0.0/0"), 33),
    Flag("--ipv4", ("--ipv4",), ("--cidr", "0.0.0.0/0"), 33),
    Flag("--ipv6", ("--ipv6",), ("--cidr", "::/0"), 4),
    Flag("--pod", ("--pod", "shop/web"), ("--pod", "shop/web*"), 22),
    Flag("--pod", ("--pod", "tool"), ("--pod", "default/tool*"), 7),
    Flag("--from-pod", ("--from-pod", "back/api-0"), ("--from", "back/api-0*"), 3),
    Flag("--to-pod", ("--to-pod", "back/db"), ("--to", "back/db*"), 16),
    Flag("--namespace", ("--namespace", "shop"), ("-n", "shop"), 22),
    Flag("--from-namespace", ("--from-namespace", "default"), ("--from", "default/*"), 7),
    Flag("--to-namespace", ("--to-namespace", "back"), ("--to", "back/*"), 34),
    Flag("--all-namespaces", ("--all-namespaces",), ("--pod", "*"), 38),
    Flag("--from-all-namespaces", ("--from-all-namespaces",), ("--from", "*/*"), 32),
    Flag("--to-all-namespaces", ("--to-all-namespaces",), ("--to", "*/*"), 34),
    Flag("--label", ("--label", "app=web"), ("-l", "app=web"), 22),
    Flag("--from-label", ("--from-label", "k8s:app in (api,db)"),
         _cel('flow.src.labels.app == "api" || flow.src.labels.app == "db"'), 3),
    Flag("--to-label", ("--to-label", "app=api,app.kubernetes.io/part-of"), _cel('flow.dest.labels.app == "api"'), 18),
    Flag("--from-label", ("--from-label", "reserved:remote-node"), _cel('flow.src.node_name == "n3"'), 2),
    Flag("--service", ("--service", "back/api"), ("--service", "back/api*"), 10),
    Flag("--to-service", ("--to-service", "shop/pay"), ("--service", "shop/pay*"), 1),
    Flag("--port", ("--port", "40001"),
         _cel("flow.connection.src_port == 40001 || flow.connection.dest_port == 40001"), 5),
    Flag("--from-port", ("--from-port", "40001"), _cel("flow.connection.src_port == 40001"), 5),
    Flag("--to-port", ("--to-port", "443", "--to-port", "53"), ("--port", "443", "--port", "53"), 10),
    Flag("--workload", ("--workload", "StatefulSet/db"), ("--workload", "StatefulSet/db"), 16),
    Flag("--from-workload", ("--from-workload", "web"), ("--workload", "web"), 22),
    Flag("--to-workload", ("--to-workload", "Deployment/api"), _cel('flow.dest.workload_name == "api"'), 18),
    Flag("--identity", ("--identity", "world"), _cel("has(flow.dest.instance)"), 4),
    Flag("--from-identity", ("--from-identity", "host"), ("--reason", "node"), 3),
    Flag("--to-identity", ("--to-identity", "world"), _cel("has(flow.dest.instance)"), 4),
    Flag("--traffic-direction", ("--traffic-direction", "ingress"), ("--direction", "ingress"), 15),
    Flag("--not-reply", ("--not-reply",), (), 38),
    Flag("--not", ("--not", "--verdict", "DROPPED"), ("--not", "--verdict", "deny"), 27),
    Flag("--allowlist", ("--allowlist", '{"source_pod":["back/api"],"protocol":["sctp"]}'),
         ("--from", "back/api*", "--protocol", "sctp"), 2),
    Flag("--denylist", ("--denylist", '{"node_name":["n1"]}'), ("--not", "--node", "n1"), 18),
)  # fmt: skip


def window(flag: Flag) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return which past each command is asked for."""
    if flag.flag in {"--last", "--since"}:
        return (), ()
    if flag.flag in {"--first", "--until"}:
        return (), _EVERYTHING
    return ("--all",), _EVERYTHING
