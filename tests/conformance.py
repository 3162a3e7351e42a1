"""Reads policy cases (``../shared/conformance/README.md``) and maps them to either family."""

from __future__ import annotations

import copy
import ipaddress
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from enrich.model import ClusterNetworkPolicy, Namespace, NetworkPolicy, Node, Pod, Protocol
from enrich.objects import parse
from enrich.policy import PolicyView

FOLDER = Path(__file__).resolve().parents[2] / "shared" / "conformance"
_ADDRESS = re.compile(r"^(\d+\.\d+\.\d+\.\d+)(/(\d+))?$")


def case_files(*, cluster_policies: bool = True) -> list[Any]:
    """The cases as pytest parameters; one that is skipped and says so where there is no folder."""
    if not (FOLDER / "cases").is_dir():
        reason = "no ../shared/conformance beside this checkout: the public policy cases did not run"
        return [pytest.param(None, marks=pytest.mark.skip(reason=reason))]
    files = sorted((FOLDER / "cases").rglob("*.json"))
    return [
        pytest.param(file, id=file.stem) for file in files if cluster_policies or "ClusterN" not in file.read_text()
    ]


def load(file: Path, family: int) -> dict[str, Any]:
    """A case, with every address mapped to ``family``."""
    case = json.loads(file.read_text())
    mapped: dict[str, Any] = _map(case) if family == 6 else case
    return mapped


def _map(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _map(inner) for key, inner in value.items()}
    if isinstance(value, list):
        mapped = [_map(inner) for inner in value]
        # 0.0.0.0/0 beside ::/0 is ::/0 twice, which a ClusterNetworkPolicy's set of networks may not hold.
        return list(dict.fromkeys(mapped)) if all(isinstance(one, str) for one in mapped) else mapped
    if isinstance(value, str) and (found := _ADDRESS.match(value)):
        address, slash, bits = found.groups()
        if slash and address == "0.0.0.0" and bits == "0":  # noqa: S104 - a CIDR
            return "::/0"
        low = int(ipaddress.IPv4Address(address))
        return f"{ipaddress.IPv6Address((0xFD00 << 112) + low)}{f'/{96 + int(bits)}' if slash else ''}"
    return value


class State:
    """The cluster of a case as it stands after some steps."""

    def __init__(self, case: dict[str, Any]) -> None:
        cluster = copy.deepcopy(case["cluster"])
        self.namespaces = {name: made["labels"] for name, made in cluster["namespaces"].items()}
        self.nodes = {node["name"]: node for node in cluster.get("nodes", [])}
        self.pods = {f"{pod['namespace']}/{pod['name']}": pod for pod in cluster["pods"]}
        self.externals = {f"ext:{one['name']}": one["ip"] for one in cluster.get("externals", [])}
        self.policies: dict[str, dict[str, Any]] = {}

    def apply(self, action: dict[str, Any]) -> None:
        """One action of a step."""
        kind, made = action["kind"], action["object"]
        meta = made.get("metadata", made)
        name = f"{meta['namespace']}/{meta['name']}" if meta.get("namespace") else meta["name"]
        gone = action["op"] == "delete"
        match kind:
            case "NetworkPolicy" | "ClusterNetworkPolicy":
                key = f"{kind} {name}"
                self.policies.pop(key, None) if gone else self.policies.update({key: made})
            case "Namespace" | "Namespace labels":
                labels = {**(meta.get("labels") or {}), "kubernetes.io/metadata.name": meta["name"]}
                self.namespaces.pop(name, None) if gone else self.namespaces.update({name: labels})
            case "Pod":
                self.pods.pop(name, None) if gone else self.pods.update({name: made})
            case "Pod labels":
                self.pods[name]["labels"] = meta["labels"]
            case _:
                raise AssertionError(f"unknown action {kind}")

    def ip(self, name: str) -> str:
        """The address of a pod, an external or a node of the table."""
        if name in self.externals:
            return str(self.externals[name])
        found = self.nodes[name.removeprefix("node:")] if name.startswith("node:") else self.pods[name]
        return str(found["ip"])

    def view(self, node: str) -> PolicyView:
        """The state as the product's own parser reads it, seen from a node."""
        objects = [*self._namespaces(), *self._nodes(), *self._pods(), *map(parse, self.policies.values())]

        def kind(wanted: type) -> dict[Any, Any]:
            return {made.key: made for made in objects if isinstance(made, wanted)}

        return PolicyView(kind(Pod), kind(Namespace), kind(Node), kind(NetworkPolicy), kind(ClusterNetworkPolicy), node)

    def _namespaces(self) -> Iterator[Any]:
        for name, labels in self.namespaces.items():
            yield parse({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})

    def _nodes(self) -> Iterator[Any]:
        for name, node in self.nodes.items():
            addresses = [{"type": "InternalIP", "address": node["ip"]}]
            meta = {"name": name, "labels": node.get("labels", {})}
            yield parse({"apiVersion": "v1", "kind": "Node", "metadata": meta, "status": {"addresses": addresses}})

    def _pods(self) -> Iterator[Any]:
        for pod in self.pods.values():
            ports = [
                {
                    "containerPort": port["port"],
                    "protocol": port["protocol"],
                    **({"name": port["name"]} if port.get("name") else {}),
                }
                for port in pod["ports"]
                if port.get("declared", True)
            ]
            yield parse(
                {
                    "apiVersion": "v1",
                    "kind": "Pod",
                    "metadata": {"namespace": pod["namespace"], "name": pod["name"], "labels": pod["labels"]},
                    "spec": {
                        "nodeName": pod["node"],
                        "hostNetwork": pod.get("hostNetwork", False),
                        "containers": [{"ports": ports}],
                    },
                    "status": {"podIP": pod["ip"]},
                }
            )


def rows(expect: dict[str, Any]) -> Iterator[tuple[str, str, Protocol, int, bool]]:
    """Source, destination, protocol, port, allowed: every row of a step's truth."""
    for source, destination, probe, allowed in expect["truth"] + expect.get("host_truth", []):
        port, protocol = probe.split("/")
        yield source, destination, Protocol[protocol], int(port), allowed
