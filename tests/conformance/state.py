"""The cluster of a case after some of its steps, and its objects as kubeweir's parser reads them."""

from __future__ import annotations

import copy
import ipaddress
from collections.abc import Iterable, Iterator
from typing import Any, Final

import msgspec

from enrich.model import POLICY_API_VERSIONS, ClusterNetworkPolicy, Name, Namespace, NetworkPolicy, Node, Object, Pod
from enrich.parse.cursor import InvalidObjectError
from enrich.parse.objects import parse
from enrich.policy.matching import PolicyView
from tests.conformance.case import Action, Case, Expect, MalformedError, PodSpec, rows

_POLICIES: Final = frozenset(kind.__name__ for kind in POLICY_API_VERSIONS)


class State:
    """The cluster's objects: pods by "namespace/name", externals by "ext:name", nodes by name."""

    def __init__(self, case: Case) -> None:
        cluster = copy.deepcopy(case.cluster)
        self.namespaces = {name: namespace.labels for name, namespace in cluster.namespaces.items()}
        self.nodes = {node.name: node for node in cluster.nodes}
        self.pods = {f"{pod.namespace}/{pod.name}": pod for pod in cluster.pods}
        self.externals = {f"ext:{one.name}": one for one in cluster.externals}
        self.policies: dict[tuple[str, str], dict[str, Any]] = {}

    def apply(self, action: Action) -> None:
        """Apply one action of a step. Raises :class:`MalformedError`."""
        meta = action.object.get("metadata", action.object)
        if not isinstance(meta, dict) or not isinstance(meta.get("name"), str):
            raise MalformedError(f"{action.op} {action.kind}: the object has no name")
        name = f"{meta['namespace']}/{meta['name']}" if meta.get("namespace") else meta["name"]
        match action.kind, action.op:
            case kind, "delete" if kind in _POLICIES:
                self.policies.pop((action.kind, name), None)
            case kind, _ if kind in _POLICIES:
                self.policies[action.kind, name] = action.object
            case "Namespace", "delete":
                self._delete_namespace(name)
            case (("Namespace" | "Namespace labels"), _):
                self.namespaces[name] = meta.get("labels") or {}
            case "Pod", "delete":
                self.pods.pop(name, None)
            case "Pod", _:
                self.pods[name] = _pod_of(action)
            case "Pod labels", _:
                if name not in self.pods:
                    raise MalformedError(f"{action.op} {action.kind}: there is no pod {name}")
                self.pods[name].labels = meta.get("labels") or {}

    def _delete_namespace(self, name: str) -> None:
        """Delete a namespace and everything in it, as the namespace controller does."""
        self.namespaces.pop(name, None)
        self.pods = {key: pod for key, pod in self.pods.items() if pod.namespace != name}
        self.policies = {key: policy for key, policy in self.policies.items() if not key[1].startswith(f"{name}/")}

    def ip(self, name: str) -> str:
        """Return the address of an end of a row."""
        if name in self.externals:
            return self.externals[name].ip
        return self.nodes[name.removeprefix("node:")].ip if name.startswith("node:") else self.pods[name].ip

    def node_of(self, name: str) -> str | None:
        """Return the node of an end of a row: a node itself, a pod's node, or None for an outside host."""
        if name.startswith("node:"):
            return name.removeprefix("node:")
        return self.pods[name].node if name in self.pods else None

    def pod(self, name: str) -> PodSpec | None:
        """Return the pod at an end of a row, or None if that is not a pod with its own interface."""
        found = self.pods.get(name)
        return None if found is None or found.host_network else found

    def check(self, expect: Expect) -> None:
        """Raise :class:`MalformedError` if the cluster or a row names something that does not exist."""
        owners: dict[str, str] = {}
        for name, ip in self._addresses():
            try:
                ipaddress.ip_address(ip)
            except ValueError as error:
                raise MalformedError(f"{name}: {error}") from error
            if ip in owners:
                raise MalformedError(f"{name} has the address of {owners[ip]}, {ip}")
            owners[ip] = name
        for name, pod in self.pods.items():
            if pod.node not in self.nodes:
                raise MalformedError(f"pod {name}: there is no node {pod.node!r}")
            if pod.host_network and pod.ip != self.nodes[pod.node].ip:
                raise MalformedError(
                    f"pod {name} is on the host's network and must have its node's address, but has {pod.ip}"
                )
        ends = {*self.pods, *self.externals, *(f"node:{name}" for name in self.nodes)}
        for row in rows(expect):
            for end in (row.source, row.destination):
                if end not in ends:
                    raise MalformedError(f"row {row}: there is no {end!r}")

    def _addresses(self) -> Iterator[tuple[str, str]]:
        yield from ((f"node {node.name}", node.ip) for node in self.nodes.values())
        yield from ((f"pod {name}", pod.ip) for name, pod in self.pods.items() if not pod.host_network)
        yield from ((name, one.ip) for name, one in self.externals.items())

    def objects(self) -> list[Object]:
        """Return the objects as parsed. Raises InvalidObjectError for an object that kubeweir refuses."""
        return list(_read([*self._namespaces(), *self._nodes(), *self._pods(), *self.policies.values()]))

    def view(self, node: str) -> PolicyView:
        """Return the state as the input of policy decisions on a node."""
        objects = self.objects()

        def of(kind: type) -> dict[Any, Any]:
            # Two policies of different kinds may have one name.
            found = (one for one in objects if isinstance(one, kind))
            return {one.key if type(one) is kind else Name(type(one).__name__, one.key.name): one for one in found}

        return PolicyView(of(Pod), of(Namespace), of(Node), of(NetworkPolicy), of(ClusterNetworkPolicy), node)

    def _namespaces(self) -> Iterator[dict[str, Any]]:
        for name, labels in self.namespaces.items():
            named = {**labels, "kubernetes.io/metadata.name": name}
            yield {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": named}}

    def _nodes(self) -> Iterator[dict[str, Any]]:
        for node in self.nodes.values():
            addresses = [{"type": "InternalIP", "address": node.ip}]
            meta = {"name": node.name, "labels": node.labels}
            yield {"apiVersion": "v1", "kind": "Node", "metadata": meta, "status": {"addresses": addresses}}

    def _pods(self) -> Iterator[dict[str, Any]]:
        for pod in self.pods.values():
            ports = [
                {
                    "containerPort": port.port,
                    "protocol": port.protocol,
                    **({"name": port.name} if port.name else {}),
                }
                for port in pod.ports
                if port.declared
            ]
            yield {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"namespace": pod.namespace, "name": pod.name, "labels": pod.labels},
                "spec": {
                    "nodeName": pod.node,
                    "hostNetwork": pod.host_network,
                    "containers": [{"name": "c", "ports": ports}],
                },
                "status": {"podIP": pod.ip, "phase": "Running"},
            }


def _pod_of(action: Action) -> PodSpec:
    try:
        return msgspec.convert(action.object, PodSpec)
    except msgspec.ValidationError as error:
        raise MalformedError(f"{action.op} Pod: {error}") from error


def _read(documents: Iterable[dict[str, Any]]) -> Iterator[Object]:
    for document in documents:
        parsed = parse(document)
        if parsed is None:
            raise InvalidObjectError("kind", f"{document.get('apiVersion')} {document.get('kind')} is not supported")
        yield parsed
