"""Makers: manifests of a small cluster, and batches of verdicts between its pods."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from enrich.wire.batch import INGRESS, VERDICT, EndpointRef, Header, PolicyRef, Reason, Verdict, encode_batch
from enrich.wire.ends import How, encode_ends, end_dtype

PODS = {"web-0": "10.0.0.10", "api-0": "10.0.0.20", "db-0": "10.0.0.30"}
"""On node n1, in namespace shop, each with the label app."""

UP_NS = 7 * 86_400 * 10**9
"""How much longer the node has been up than this machine, which may have been started a minute ago: a verdict of two
hours ago needs a node that ran then."""

_POD = """\
---
apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: shop, uid: uid-{name}, labels: {{app: {app}}}}}
spec: {{nodeName: n1, containers: [{{name: main, image: none}}]}}
status: {{phase: Running, podIP: {ip}, podIPs: [{{ip: {ip}}}], startTime: "2026-01-01T00:00:00Z"}}
"""


def write_manifests(folder: Path, cluster: str = "c1") -> None:
    """Namespaces, a node and the pods. ``cluster`` is the cluster's id."""
    folder.mkdir(parents=True, exist_ok=True)
    text = "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop, uid: uid-shop}\n"
    text += f"---\napiVersion: v1\nkind: Namespace\nmetadata: {{name: kube-system, uid: {cluster}}}\n"
    text += "---\napiVersion: v1\nkind: Node\nmetadata: {name: n1, uid: uid-n1}\n"
    text += "".join(_POD.format(name=name, app=name.split("-")[0], ip=ip) for name, ip in PODS.items())
    (folder / "cluster.yaml").write_text(text)


def mapped(ip: str) -> list[int]:
    """Convert IPv4 text to the 16 bytes of its v4-mapped form."""
    return [0] * 10 + [255, 255] + [int(part) for part in ip.split(".")]


def make_rows(count: int, *, denied: bool = False, ingress: bool = False, age_s: float = 0.0, **fields: Any) -> Any:
    """Verdicts of web-0 (endpoint 7) to api-0, or from it if ``ingress``."""
    verdicts = np.zeros(count, VERDICT)
    verdicts["time_ns"] = UP_NS + time.monotonic_ns() - int(age_s * 1e9) + np.arange(count)
    own, peer = mapped(PODS["web-0"]), mapped(PODS["api-0"])
    verdicts["source"], verdicts["destination"] = (peer, own) if ingress else (own, peer)
    verdicts["source_port"], verdicts["destination_port"], verdicts["protocol"] = 40000, 8080, 6
    verdicts["endpoint"], verdicts["identity"], verdicts["rule"], verdicts["count"] = 7, 3, 12, 1
    verdict = Verdict.DENY if denied else Verdict.ALLOW
    verdicts["verdict"] = verdict | (INGRESS if ingress else 0)
    verdicts["reason"] = Reason.DEFAULT_DENY if denied else Reason.POLICY
    for name, value in fields.items():
        verdicts[name] = value
    return verdicts


def make_header(first: int, verdicts: int, **fields: Any) -> Header:
    """The header of a batch of ring r1 on node n1."""
    given: dict[str, Any] = {
        "v": 1,
        "cluster": "c1",
        "node": "n1",
        "ring": "r1",
        "first": first,
        "verdicts": verdicts,
        "verdict_bytes": VERDICT.itemsize,
        "clock": time.time_ns() - time.monotonic_ns() - UP_NS,
        "endpoints": {"7": EndpointRef("shop", "web-0", "uid-web-0")},
        "rules": {"12": [PolicyRef("NetworkPolicy", "shop", "web-allow-api", 0)]},
    }
    return Header(**{**given, **fields})


def make_ends(verdicts: Any, **fields: Any) -> str:
    """Reports of the connections of these verdicts, which the ring 16 of this cluster has, for a header."""
    ends = np.zeros(len(verdicts), end_dtype(VERDICT))
    ends["verdict"], ends["ring"], ends["number"] = verdicts, 16, np.arange(len(verdicts))
    ends["since_ns"] = verdicts["time_ns"]
    ends["until_ns"] = verdicts["time_ns"] + 1_500_000_000
    ends["bytes"], ends["packets"], ends["how"] = (1234, 40_321), (6, 9), How.CLOSED
    for name, value in fields.items():
        ends[name] = value
    return encode_ends(ends)


def make_batch(first: int, count: int, header: dict[str, Any] | None = None, **fields: Any) -> bytes:
    """A whole batch as its Kafka value."""
    return encode_batch(make_header(first, count, **(header or {})), make_rows(count, **fields))
