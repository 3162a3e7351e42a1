"""The collections of the API that are watched, and how their elements become objects."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import orjson
import structlog

from enrich.index.cluster import Change, Cluster
from enrich.model import (
    POLICY_API_VERSIONS,
    ClusterNetworkPolicy,
    EndpointSlice,
    Name,
    Namespace,
    NetworkPolicy,
    Node,
    Object,
    Pod,
    Service,
    Workload,
)
from enrich.parse.cluster_network_policy import closed_cluster_network_policy
from enrich.parse.cursor import Field, InvalidObjectError
from enrich.parse.metadata import with_known_mode
from enrich.parse.objects import parse
from enrich.sources.pods import PodJson, PodReader

log = structlog.get_logger("kubeweir.source")


@dataclass(frozen=True, slots=True)
class Resource:
    """A collection of the API. ``kind`` and ``version`` are what its elements are, which lists leave out."""

    path: str
    version: str
    kind: str
    type: type
    metadata_only: bool = False
    definition: str = ""
    """The name of the CRD, of a kind that a cluster may do without."""
    labels: str = ""
    """A label selector: only these elements."""

    def select(self, query: dict[str, str]) -> dict[str, str]:
        """The query for those elements that are wanted."""
        return {**query, "labelSelector": self.labels} if self.labels else query

    def read(self, item: dict[str, Any]) -> Object:
        """An element. Raises InvalidObjectError."""
        made = parse({**item, "apiVersion": self.version, "kind": self.kind})
        if made is None:
            raise InvalidObjectError("kind", f"{self.kind} is not in use")
        return made

    def gone(self, item: dict[str, Any]) -> Object:
        """What a deleted element is told by, whatever else is in it."""
        if self.type is ClusterNetworkPolicy:
            spec = {"tier": "Admin", "priority": 0, "subject": {"namespaces": {}}}
            return self.read({**with_known_mode(item), "spec": spec})
        return self.read({"metadata": with_known_mode(item)["metadata"], "spec": {"podSelector": {}}})

    def closed(self, item: dict[str, Any]) -> Object | None:
        """In place of an element that is not understood: a policy is closed; all else is nothing.

        A NetworkPolicy isolates, and allows nothing; of a ClusterNetworkPolicy, the rules that are not understood are
        closed. Where only the mode is not understood, the object counts as if it had none: it is enforced.
        """
        item = with_known_mode(item)
        with contextlib.suppress(InvalidObjectError):
            return self.read(item)
        if self.type is ClusterNetworkPolicy:
            with contextlib.suppress(InvalidObjectError, TypeError):
                return closed_cluster_network_policy(Field("", {**item, "kind": self.kind}))
        if self.type is not NetworkPolicy:
            return None
        spec = item.get("spec") or {}
        both = ["Ingress", "Egress"]
        types = spec.get("policyTypes") or both
        for selector, directions in ((spec.get("podSelector"), types), ({}, types), ({}, both)):
            with contextlib.suppress(InvalidObjectError):
                return self.read(
                    {"metadata": item["metadata"], "spec": {"podSelector": selector, "policyTypes": directions}}
                )
        return None


RESOURCES: Final = (
    Resource("/api/v1/namespaces", "v1", "Namespace", Namespace),
    Resource("/api/v1/nodes", "v1", "Node", Node),
    Resource("/api/v1/pods", "v1", "Pod", Pod),
    Resource("/api/v1/services", "v1", "Service", Service),
    Resource(
        "/apis/discovery.k8s.io/v1/endpointslices",
        "discovery.k8s.io/v1",
        "EndpointSlice",
        EndpointSlice,
        # Those of the controller say again of pods what the pods say, at each change of their readiness.
        labels="endpointslice.kubernetes.io/managed-by!=endpointslice-controller.k8s.io",
    ),
    Resource("/apis/apps/v1/replicasets", "apps/v1", "ReplicaSet", Workload, metadata_only=True),
    Resource("/apis/batch/v1/jobs", "batch/v1", "Job", Workload, metadata_only=True),
    Resource(
        f"/apis/{POLICY_API_VERSIONS[NetworkPolicy]}/networkpolicies",
        POLICY_API_VERSIONS[NetworkPolicy],
        NetworkPolicy.__name__,
        NetworkPolicy,
    ),
    Resource(
        f"/apis/{POLICY_API_VERSIONS[ClusterNetworkPolicy]}/clusternetworkpolicies",
        POLICY_API_VERSIONS[ClusterNetworkPolicy],
        ClusterNetworkPolicy.__name__,
        ClusterNetworkPolicy,
        definition="clusternetworkpolicies.policy.networking.k8s.io",
    ),
)


class Reader:
    """Elements of one collection, from their bytes, on one thread."""

    def __init__(self, resource: Resource) -> None:
        self.refused: set[str] = set()
        """Names of elements that are not understood."""
        self._resource = resource
        self._pods = PodReader() if resource.type is Pod else None

    def begin(self) -> None:
        """A new list: what was not understood may be gone."""
        self.refused.clear()

    def forget(self, key: Name) -> None:
        """It was deleted."""
        self.refused.discard(str(key))

    def read_event(self, line: bytes) -> tuple[str, str, Object] | None:
        """An event of a watch in one go: its type, the element's version, and the element. None for one that must be
        read with care, and for everything but pods."""
        if self._pods is not None:
            with contextlib.suppress(ValueError, LookupError, OSError):
                event = _read_pod_event(line)
                return event.type, event.object.metadata.resource_version, self._made(self._pods.read(event.object))
        return None

    def read(self, raw: msgspec.Raw) -> tuple[str, Object | None]:
        """The element's version, and the element; None for one that is left out."""
        if self._pods is not None:
            with contextlib.suppress(ValueError, LookupError, OSError):
                item = _read_pod(raw)
                return item.metadata.resource_version, self._made(self._pods.read(item))
        return self._read_with_care(orjson.loads(bytes(raw)))

    def _made(self, pod: Pod) -> Pod:
        if self.refused:
            self.refused.discard(str(pod.key))
        return pod

    def _read_with_care(self, item: dict[str, Any]) -> tuple[str, Object | None]:
        meta = item["metadata"]
        name, version = str(Name(meta.get("namespace", ""), meta["name"])), str(meta.get("resourceVersion") or "")
        try:
            made = self._resource.read(item)
        except InvalidObjectError as error:
            self.refused.add(name)
            log.error("object not understood", kind=self._resource.kind, object=name, error=str(error))
            return version, self._resource.closed(item)
        self.refused.discard(name)
        return version, made


class _PodEvent(msgspec.Struct, gc=False):
    type: str
    object: PodJson


_read_pod = msgspec.json.Decoder(PodJson).decode
_read_pod_event = msgspec.json.Decoder(_PodEvent).decode


class Index:
    """Puts collections into a cluster's index; those that make one type of object together, as one list."""

    def __init__(self, cluster: Cluster, resources: Sequence[Resource]) -> None:
        self._cluster, self._resources = cluster, resources
        self._waiting: dict[type, set[str]] = {}
        for resource in resources:
            self._waiting.setdefault(resource.type, set()).add(resource.kind)
        self._shared = {kind for kind, parts in self._waiting.items() if len(parts) > 1}
        self._lists: dict[str, dict[Name, Object]] = {}
        self._lock = threading.Lock()

    def replace(self, resource: Resource, objects: list[Object], known_ns: int) -> None:
        """The complete list of a collection. ``known_ns``: until when we had been told everything."""
        if resource.type not in self._shared:
            self._cluster.replace(resource.type, objects, known_ns)
            return
        with self._lock:
            self._lists[resource.kind] = {made.key: made for made in objects}
            self._waiting[resource.type].discard(resource.kind)
            if not self._waiting[resource.type]:
                parts = [r.kind for r in self._resources if r.type is resource.type]
                self._cluster.replace(resource.type, [made for p in parts for made in self._lists[p].values()])

    def apply(self, resource: Resource, change: Change, known_ns: int) -> None:
        """One element of a collection that was listed."""
        if resource.type not in self._shared:
            self._cluster.apply([change], known_ns)
            return
        with self._lock:
            listed = self._lists[resource.kind]
            if change.op == "set":
                listed[change.object.key] = change.object
            else:
                listed.pop(change.object.key, None)
            if not self._waiting[resource.type]:
                self._cluster.apply([change])
