"""A cluster of eight nodes as manifests, and verdicts between its pods: as batches, and as one JSON object for each.

The verdicts are like those of a busy cluster: both directions, many ports, one in ten denied, one in five with a peer
outside the cluster. The probe's own :class:`probe.export.batcher.Batcher` makes the batches.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import orjson

from enrich.wire.batch import INGRESS, VERDICT, EndpointRef, PolicyRef, Reason, Verdict
from enrich.wire.mapped_address import address_text
from probe.export.batcher import Batcher, Limits, Verdicts

CLUSTER: Final = "bench"
NODES: Final = tuple(f"n{number}" for number in range(8))
DENIED: Final = 10
"""One verdict of this many is a deny."""
_PODS_PER_NODE: Final = 25
_NAMESPACES: Final = 10
_RULES: Final = 20
_PEERS_OF_POD: Final = 15
_OUTSIDE: Final = 5
"""One verdict of this many has a peer outside the cluster."""
_TCP: Final = 6


def ring_of(node: str) -> str:
    """Return the id of a node's ring."""
    return f"{NODES.index(node):016x}"


def key_of(node: str) -> bytes:
    """Return the Kafka key of a node's batches."""
    return f"{CLUSTER}/{node}/{ring_of(node)}".encode()


class _Pods:
    """Name and address of each pod by its number. The pods of a node have consecutive numbers."""

    def reference(self, number: int) -> EndpointRef:
        return EndpointRef(f"team-{number % _NAMESPACES}", f"app-{number % 40}-{number}", f"uid-{number}")

    def address(self, number: int) -> str:
        return f"10.244.{number >> 8}.{number & 255}"


def write_manifests(folder: Path) -> None:
    """Write the manifests of namespaces, nodes, and pods with their owners."""
    folder.mkdir(parents=True)
    objects = [_object("v1", "Namespace", f"team-{number}") for number in range(_NAMESPACES)]
    objects += [_object("v1", "Node", name, labels={"topology.kubernetes.io/zone": "zone-a"}) for name in NODES]
    for number in range(len(NODES) * _PODS_PER_NODE):
        ref, app = _Pods().reference(number), f"app-{number % 40}"
        owner = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": app, "uid": f"rs-{app}", "controller": True}
        labels = {"app": app, "k8s-app": app, "pod-template-hash": "5d9f8c"}
        objects.append(
            _object("v1", "Pod", ref.pod, namespace=ref.namespace, uid=ref.uid, labels=labels, ownerReferences=[owner])
            | {
                "spec": {"nodeName": NODES[number // _PODS_PER_NODE], "containers": [{"name": "main"}]},
                "status": {
                    "phase": "Running",
                    "podIPs": [{"ip": _Pods().address(number)}],
                    "startTime": "2026-01-01T00:00:00Z",
                },
            }
        )
    (folder / "cluster.json").write_bytes(orjson.dumps({"apiVersion": "v1", "kind": "List", "items": objects}))


def _object(version: str, kind: str, name: str, **metadata: Any) -> dict[str, Any]:
    return {"apiVersion": version, "kind": kind, "metadata": {"uid": f"uid-{kind}-{name}", "name": name, **metadata}}


class _Names:
    """Resolves the endpoint numbers (from 1) and rule numbers in one node's verdicts."""

    def __init__(self, node: str) -> None:
        self._first = NODES.index(node) * _PODS_PER_NODE

    def endpoint(self, number: int) -> EndpointRef:
        return _Pods().reference(self._first + number - 1)

    def rule(self, number: int) -> list[PolicyRef]:
        return [PolicyRef("NetworkPolicy", f"team-{number % _NAMESPACES}", f"policy-{number}", 0)]


def make_verdicts(node: str, count: int) -> Verdicts:
    """Make verdicts of a node's pods, ten seconds old. Except for the time, equal arguments give equal verdicts."""
    chance = np.random.default_rng(NODES.index(node))
    verdicts = np.zeros(count, VERDICT)
    own = chance.integers(0, _PODS_PER_NODE, count)
    # A pod talks to few others, and to each by one port.
    talk = chance.integers(0, _PEERS_OF_POD, count)
    peers = (own * 37 + talk * 41 + NODES.index(node)) % (len(NODES) * _PODS_PER_NODE)
    outside = (own + talk) % _OUTSIDE == 0
    inward = (own + talk) % 2 == 0
    denied = np.arange(count) % DENIED == 0
    local = _packed(NODES.index(node) * _PODS_PER_NODE + own)
    remote = np.where(outside[:, None], _packed(peers, prefix=(203, 0)), _packed(peers))
    verdicts["source"] = np.where(inward[:, None], remote, local)
    verdicts["destination"] = np.where(inward[:, None], local, remote)
    verdicts["source_port"] = chance.integers(32_768, 61_000, count)
    verdicts["destination_port"] = np.array([53, 80, 443, 5432, 8080])[talk % 5]
    verdicts["protocol"], verdicts["tcp_flags"], verdicts["count"] = _TCP, 2, 1
    verdicts["endpoint"], verdicts["identity"], verdicts["rule"] = own + 1, peers, 1 + (own + talk) % _RULES
    verdicts["verdict"] = np.where(denied, Verdict.DENY, Verdict.ALLOW) | np.where(inward, INGRESS, 0)
    verdicts["reason"] = np.where(denied, Reason.DEFAULT_DENY, Reason.POLICY)
    verdicts["time_ns"] = time.monotonic_ns() - 10_000_000_000 + np.arange(count) * 1000
    return verdicts


def _packed(numbers: np.ndarray[Any, Any], prefix: tuple[int, int] = (10, 244)) -> np.ndarray[Any, Any]:
    addresses = np.zeros((len(numbers), 16), "u1")
    addresses[:, 10:12] = 0xFF
    addresses[:, 12:14] = prefix
    addresses[:, 14], addresses[:, 15] = numbers >> 8, numbers & 255
    return addresses


def make_batches(node: str, verdicts: Verdicts, size: int, first: int = 0) -> list[bytes]:
    """Make Kafka values of ``size`` verdicts each; the last may have fewer. The first verdict gets number ``first``."""
    batcher = Batcher((CLUSTER, node, ring_of(node)), _Names(node), dict, {}, Limits(verdicts=size, bytes=1 << 30))
    batcher.add(first, verdicts)
    return [batch.value for batch in batcher.take(everything=True)]


def make_objects(node: str, verdicts: Verdicts) -> Iterator[bytes]:
    """Make one JSON object for each verdict, as a probe without batches would send it."""
    names, clock = _Names(node), time.time_ns() - time.monotonic_ns()
    for number, verdict in enumerate(verdicts):
        ref, inward = names.endpoint(int(verdict["endpoint"])), bool(verdict["verdict"] & INGRESS)
        yield orjson.dumps(
            {
                "cluster": CLUSTER,
                "node": node,
                "ring": ring_of(node),
                "number": number,
                "time_ns": int(verdict["time_ns"]) + clock,
                "span_ms": int(verdict["span_ms"]),
                "source": address_text(verdict["source"].tobytes()),
                "destination": address_text(verdict["destination"].tobytes()),
                "source_port": int(verdict["source_port"]),
                "destination_port": int(verdict["destination_port"]),
                "protocol": "tcp",
                "direction": "ingress" if inward else "egress",
                "endpoint": {"namespace": ref.namespace, "pod": ref.pod, "uid": ref.uid},
                "policies": _policies(names.rule(int(verdict["rule"]))),
                "verdict": Verdict(verdict["verdict"] & ~np.uint8(INGRESS)).name.lower(),
                "reason": Reason(verdict["reason"]).name.lower(),
                "count": int(verdict["count"]),
            }
        )


def _policies(refs: Sequence[PolicyRef]) -> list[dict[str, str]]:
    return [{"kind": ref.kind, "namespace": ref.namespace, "name": ref.name} for ref in refs]
