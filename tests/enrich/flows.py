"""Batches to enrich: a small cluster, rows by keyword or by hypothesis, and a slow, plain rendering to compare with."""

from __future__ import annotations

import ipaddress
from datetime import UTC, datetime
from typing import Any

import numpy as np
from hypothesis import strategies as st

from enrich.index.cluster import KINDS, Cluster
from enrich.model import Node, Owner, Pod, Service, Workload
from enrich.wire.batch import (
    AGGREGATED,
    CUT,
    INGRESS,
    UNNAMED,
    VERDICT,
    Batch,
    EndpointRef,
    Header,
    PolicyRef,
    Reason,
    Verdict,
    decode_batch,
    encode_batch,
)
from enrich.wire.mapped_address import packed_address

CLOCK = 1_790_000_000_000_000_000
LABELS = {"app": "web", "app.kubernetes.io/name": "shop", "secret": "x"}
PODS = (
    Pod("shop", "web-1", "uid-web", LABELS, ("10.0.0.1", "fd00::1"), "n1", owner=Owner("ReplicaSet", "web-abc")),
    Pod("shop", "api-1", "uid-api", {"k8s-app": "api"}, ("10.0.0.2",), "n2"),
)
SERVICE = Service("shop", "api", "uid-service", ("10.96.0.1",))
RULES = {
    "1": [PolicyRef("NetworkPolicy", "shop", "allow-web", 0), PolicyRef("NetworkPolicy", "shop", "allow-web", 1)],
    "2": [PolicyRef("NetworkPolicy", "shop", "deny-all"), PolicyRef("ClusterNetworkPolicy", "", "baseline")],
}
ENDPOINTS = {"7": EndpointRef("shop", "web-1", "uid-web"), "8": EndpointRef("gone", "old-b", "uid-gone")}


def make_cluster(since: int = -(1 << 63)) -> Cluster:
    """``since``: from when on it knows of all pods."""
    cluster = Cluster(tail_s=1e11, now_ns=lambda: CLOCK)
    cluster.addresses.set_complete_since(since)
    cluster.replace_all({
        **{kind: [] for kind in KINDS},
        Pod: PODS,
        Node: [Node("n1", "u1", {}, ("192.0.2.1",), "zone-a"), Node("n2", "u2", {}, ("192.0.2.2", "fd01::2"))],
        Service: [SERVICE],
        Workload: [Workload("ReplicaSet", "shop", "web-abc", "r", Owner("Deployment", "web", "d"))],
    })  # fmt: skip
    return cluster


def packed(address: str) -> bytes:
    """The 16 bytes of an address; all zero for empty text."""
    return packed_address(address) if address else bytes(16)


def make_batch(*verdicts: dict[str, Any], **header: Any) -> Batch:
    """A batch that went over the wire."""
    array = np.zeros(len(verdicts), VERDICT)
    for index, given in enumerate(verdicts):
        facts: dict[str, Any] = {
            "time_ns": 5_000_000_001, "source": "10.0.0.1", "destination": "10.0.0.2", "source_port": 40000,
            "destination_port": 8080, "protocol": 6, "endpoint": 7, "rule": 1, "count": 1,
            "verdict": Verdict.ALLOW, "reason": Reason.POLICY,
        } | given  # fmt: skip
        for name, value in facts.items():
            is_address = name in ("source", "destination", "dialled")
            array[name][index] = np.frombuffer(packed(value), "u1") if is_address else value
    facts = {
        "v": 1, "cluster": "c-1", "node": "n1", "ring": "9f%d3c", "first": 100, "verdicts": len(verdicts),
        "verdict_bytes": 88,
        "clock": CLOCK, "endpoints": ENDPOINTS, "rules": RULES,
    }  # fmt: skip
    return decode_batch(encode_batch(Header(**(facts | header)), array))


_ADDRESSES = ("", "10.0.0.1", "10.0.0.2", "fd00::1", "192.0.2.1", "fd01::2", "203.0.113.9", "2001:db8::9", "10.0.0.0")
_BYTE = st.integers(0, 255)
_PORT = st.integers(0, 65535)

rows_strategy = st.lists(
    st.fixed_dictionaries({
        "time_ns": st.one_of(st.integers(0, (1 << 62) - 1), st.integers(0, 3_000_000_000)),
        "source": st.sampled_from(_ADDRESSES),
        "destination": st.sampled_from(_ADDRESSES),
        "dialled": st.sampled_from(("", "", "10.96.0.1", "10.96.0.9", "fd96::")),
        "source_port": _PORT,
        "destination_port": _PORT,
        "dialled_port": _PORT,
        "protocol": st.one_of(st.sampled_from((6, 6, 17, 1, 58, 132, 0, 47)), _BYTE),
        "tcp_flags": _BYTE,
        "endpoint": st.sampled_from((7, 7, 8, 0, 99)),
        "identity": st.integers(0, (1 << 32) - 1),
        "rule": st.sampled_from((1, 2, 0, 99)),
        "count": st.integers(0, (1 << 32) - 1),
        "span_ms": st.one_of(st.just(0), st.integers(0, (1 << 32) - 1)),
        "verdict": st.one_of(st.sampled_from((1, 2, 3, 0x81, 0x82, 0x83)), _BYTE),
        "reason": st.one_of(st.sampled_from([int(reason) for reason in Reason]), _BYTE),
        "flags": st.sampled_from((0, 0, 0, 1, 2, 4, 5, 255)),
        "padding": _BYTE,
    }),
    min_size=1,
    max_size=20,
)  # fmt: skip


class Plain:
    """A row's record, field by field as DESIGN section 6 and the schema say it, without any haste."""

    def __init__(self, batch: Batch) -> None:
        self.batch = batch

    def record(self, index: int) -> dict[str, Any]:
        verdict, header = self.batch.verdicts[index], self.batch.header
        inward, aggregated = bool(verdict["verdict"] & INGRESS), bool(verdict["flags"] & AGGREGATED)
        source, destination = ("", "") if aggregated else (_text(verdict["source"]), _text(verdict["destination"]))
        policies = [
            {k: v for k, v in {"kind": p.kind, "namespace": p.namespace, "name": p.name}.items() if v}
            for p in header.rules.get(str(verdict["rule"]), [])
        ]
        policies = [p for i, p in enumerate(policies) if p not in policies[:i]]
        by_policy = int(verdict["reason"]) in (Reason.POLICY, Reason.EXPLICIT_DENY, Reason.ADOPTED)
        local = self._local(header.endpoints.get(str(verdict["endpoint"])))
        remote = _remote("192.0.2.1" if verdict["reason"] == Reason.NODE else source if inward else destination)
        if verdict["flags"] & UNNAMED:
            ip = source if inward else destination
            remote = {**({"instance": ip} if ip else {}), "ambiguous": True}
        wall = _signed(int(verdict["time_ns"]) + header.clock)
        record = {
            "connection": self._connection(verdict, source, destination, aggregated=aggregated),
            "disposition": {1: "allow", 2: "deny", 3: "audit"}.get(int(verdict["verdict"]) & 0x7F, "unknown"),
            "reason": Reason(verdict["reason"]).name.lower() if verdict["reason"] <= max(Reason) else "unknown",
            "policies": policies if by_policy else [],
            "isolated_by": [] if by_policy else policies,
            "src": remote if inward else local,
            "dest": local if inward else remote,
            "count": int(verdict["count"]),
            "timestamp": _time(wall),
            "last_timestamp": _time(_signed(wall + int(verdict["span_ms"]) * 1_000_000)),
            "node_name": header.node,
            "cluster": header.cluster,
            "schema": 1,
            "id": f"{header.ring}-{self.batch.numbers()[index]}",
        }
        if aggregated:
            record["aggregated"] = True
        if verdict["flags"] & CUT and int(verdict["verdict"]) & 0x7F in (Verdict.DENY, Verdict.AUDIT):
            record["logged"] = False
        if (source or destination) and verdict["protocol"] in (1, 58):
            record["icmp"] = {
                "type": int(verdict["destination_port"]) >> 8,
                "code": int(verdict["destination_port"]) & 255,
            }
        dialled = _text(verdict["dialled"])
        if dialled:
            known = {"service": {"namespace": "shop", "name": "api"}} if dialled == "10.96.0.1" else {}
            record["dialled"] = {"ip": dialled, "port": int(verdict["dialled_port"]), **known}
        return record

    def _connection(self, verdict: Any, source: str, destination: str, *, aggregated: bool) -> dict[str, Any]:
        connection: dict[str, Any] = {"direction": "ingress" if verdict["verdict"] & INGRESS else "egress"}
        if aggregated:
            return connection
        if source:
            connection["src_ip"] = source
        if destination:
            connection["dest_ip"] = destination
        number = int(verdict["protocol"])
        if number in (6, 17, 132) and (source or destination):
            connection |= {"src_port": int(verdict["source_port"]), "dest_port": int(verdict["destination_port"])}
        if number:
            names = {1: "icmp", 6: "tcp", 17: "udp", 58: "icmpv6", 132: "sctp"}
            connection["protocol"] = names.get(number, str(number))
        return connection

    def _local(self, ref: EndpointRef | None) -> dict[str, Any]:
        if ref is None:
            return {"node_name": "n1"}
        if ref.uid == "uid-web":
            return _remote("10.0.0.1")
        return {
            "pod_name": ref.pod, "namespace": ref.namespace, "pod_namespace": ref.namespace, "pod_uid": ref.uid,
            "node_name": "n1",
        }  # fmt: skip


def _remote(ip: str) -> dict[str, Any]:
    web = {
        "pod_name": "web-1", "namespace": "shop", "pod_namespace": "shop", "workload_kind": "Deployment",
        "workload_name": "web", "pod_uid": "uid-web", "labels": {"app": "web", "app.kubernetes.io/name": "shop"},
        "node_name": "n1", "zone": "zone-a",
    }  # fmt: skip
    api = {
        "pod_name": "api-1", "namespace": "shop", "pod_namespace": "shop", "pod_uid": "uid-api",
        "labels": {"k8s-app": "api"}, "node_name": "n2",
    }  # fmt: skip
    known: dict[str, dict[str, Any]] = {
        "": {}, "10.0.0.1": web, "fd00::1": web, "10.0.0.2": api,
        "192.0.2.1": {"node_name": "n1", "zone": "zone-a"}, "fd01::2": {"node_name": "n2"},
    }  # fmt: skip
    return known.get(ip, {"instance": ip})


def _text(raw: Any) -> str:
    address = ipaddress.IPv6Address(bytes(raw))
    return "" if not int(address) else str(address.ipv4_mapped or address)


def _signed(value: int) -> int:
    """As 64 bits hold it."""
    return (value + (1 << 63)) % (1 << 64) - (1 << 63)


def _time(wall: int) -> str:
    seconds, nanos = divmod(wall, 1_000_000_000)
    moment = datetime(1970, 1, 1, tzinfo=UTC).timestamp() + seconds
    return f"{datetime.fromtimestamp(moment, UTC):%Y-%m-%dT%H:%M:%S}.{nanos:09d}Z"
