"""The collections of the API that are watched, and how their elements become objects in the index."""

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
    TIERED_KINDS,
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
from enrich.network_logging import NETWORK_LOGGING_API_VERSION, ONLY_NAME, NetworkLogging
from enrich.parse.cursor import InvalidObjectError
from enrich.parse.metadata import with_known_mode
from enrich.parse.objects import parse
from enrich.sources.pods import PodJson, PodReader

log = structlog.get_logger("kubeweir.source")


@dataclass(frozen=True, slots=True)
class Resource:
    """A collection of the API. Lists leave out ``kind`` and ``version`` (``apiVersion``) of their elements."""

    path: str
    version: str
    kind: str
    type: type
    metadata_only: bool = False
    definition: str = ""
    """The name of the CustomResourceDefinition, for a kind that a cluster may do without."""
    labels: str = ""
    """A label selector; only the elements that it selects are listed and watched."""

    @property
    def is_kept(self) -> bool:
        """Whether the objects stay in force until it is proved that somebody deleted them: policies of a kind that a
        cluster may do without. Without a NetworkLogging, the settings say what is logged."""
        return bool(self.definition) and self.type in POLICY_API_VERSIONS

    def select(self, query: dict[str, str]) -> dict[str, str]:
        """Add the label selector to a query."""
        return {**query, "labelSelector": self.labels} if self.labels else query

    def read(self, item: dict[str, Any], problems: list[InvalidObjectError] | None = None) -> Object:
        """Parse an element; leniently if there is a list that takes the problems. Raises InvalidObjectError."""
        made = parse({**item, "apiVersion": self.version, "kind": self.kind}, problems)
        if made is None:
            raise InvalidObjectError("kind", f"{self.kind} is not used here")
        return made

    def gone(self, item: dict[str, Any]) -> Object:
        """Parse no more of a deleted element than its name, because the rest may be invalid."""
        if self.type is NetworkLogging:
            return NetworkLogging(item["metadata"]["name"], "")
        spec: dict[str, Any] = {"podSelector": {}}
        if self.type in TIERED_KINDS:
            spec = {"tier": "Admin", "priority": 0, "subject": {"namespaces": {}}}
        return self.read({"metadata": with_known_mode(item)["metadata"], "spec": spec})

    def readable(self, item: dict[str, Any], problems: list[InvalidObjectError]) -> Object | None:
        """Return what can be read of an element that is not valid; None unless it is a policy or the NetworkLogging.

        The API server has accepted it once, by an older validation: closing all that it selects would punish a whole
        namespace for one value. What cannot be read matches nothing, or fails closed where that would open something
        (:mod:`enrich.parse.network_policy`, :mod:`enrich.parse.cluster_network_policy`); it is added to ``problems``.
        A NetworkPolicy whose structure is wrong isolates its pods and allows nothing. If only the mode is unknown, an
        object of any kind is read as if it had none. Of the NetworkLogging nothing is read but what is wrong with it.
        """
        if self.type is NetworkLogging and item["metadata"]["name"] == ONLY_NAME:
            return NetworkLogging(ONLY_NAME, "", invalid=str(problems[0])[:_MAX_REASON])
        item = with_known_mode(item)
        with contextlib.suppress(InvalidObjectError):
            return self.read(item)
        if self.type not in POLICY_API_VERSIONS:
            return None
        with contextlib.suppress(InvalidObjectError):
            return self.read(item, problems)
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


_MAX_REASON: Final = 300
"""So many characters of what is wrong with a NetworkLogging are kept: it may quote a value of any length."""
_MAX_PROBLEMS: Final = 10
"""So many of an object are in the log."""
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
        # The controller's own slices repeat what the pods say, whenever a pod's readiness changes.
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
    *(
        Resource(
            f"/apis/{POLICY_API_VERSIONS[kind]}/{plural}",
            POLICY_API_VERSIONS[kind],
            kind.__name__,
            kind,
            definition=f"{plural}.policy.networking.k8s.io",
        )
        for kind, plural in zip(
            TIERED_KINDS,
            ("clusternetworkpolicies", "adminnetworkpolicies", "baselineadminnetworkpolicies"),
            strict=True,
        )
    ),
    Resource(
        f"/apis/{NETWORK_LOGGING_API_VERSION}/networkloggings",
        NETWORK_LOGGING_API_VERSION,
        NetworkLogging.__name__,
        NetworkLogging,
        definition="networkloggings.networking.gke.io",
    ),
)


class Reader:
    """Parses the elements of one collection from their bytes. Not thread safe."""

    def __init__(self, resource: Resource) -> None:
        self.refused: set[str] = set()
        """The names of elements that cannot be parsed, or only in part."""
        self._reported: dict[str, str] = {}
        """What the log says of those elements, so that it says it once and not at every list."""
        self._resource = resource
        self._pods = PodReader() if resource.type is Pod else None

    def begin(self) -> None:
        """Start a new list: elements that could not be parsed may be gone."""
        self._reported = {name: text for name, text in self._reported.items() if name in self.refused}
        self.refused.clear()

    def forget(self, key: Name) -> None:
        """Note that an element was deleted."""
        self._forget(str(key))

    def read_event(self, line: bytes) -> tuple[str, str, Object] | None:
        """Parse an event of a watch in one step: its type, the element's resource version, and the element.

        None if the fast parser refuses it, and for every kind but pods."""
        if self._pods is not None:
            with contextlib.suppress(ValueError, LookupError, OSError):
                event = _read_pod_event(line)
                return event.type, event.object.metadata.resource_version, self._accepted(self._pods.read(event.object))
        return None

    def read(self, raw: msgspec.Raw) -> tuple[str, Object | None]:
        """Parse an element: its resource version, and the object, which is None if the element is left out."""
        if self._pods is not None:
            with contextlib.suppress(ValueError, LookupError, OSError):
                item = _read_pod(raw)
                return item.metadata.resource_version, self._accepted(self._pods.read(item))
        return self._read_carefully(orjson.loads(bytes(raw)))

    def _accepted(self, pod: Pod) -> Pod:
        if self.refused:
            self._forget(str(pod.key))
        return pod

    def _forget(self, name: str) -> None:
        self.refused.discard(name)
        self._reported.pop(name, None)

    def _read_carefully(self, item: dict[str, Any]) -> tuple[str, Object | None]:
        meta = item["metadata"]
        name, version = str(Name(meta.get("namespace", ""), meta["name"])), str(meta.get("resourceVersion") or "")
        try:
            made = self._resource.read(item)
        except InvalidObjectError as error:
            problems = [error]
            readable = self._resource.readable(item, problems)
            self._report(name, problems, partly=readable is not None)
            return version, readable
        self._forget(name)
        return version, made

    def _report(self, name: str, problems: list[InvalidObjectError], *, partly: bool) -> None:
        error = "; ".join(dict.fromkeys(map(str, problems[:_MAX_PROBLEMS])))
        self.refused.add(name)
        if self._reported.get(name) != error:
            self._reported[name] = error
            effect = "its invalid parts are ignored, the rest applies" if partly else "the object is ignored"
            if partly and self._resource.type is NetworkLogging:
                effect = "the last valid one stays in force"
            log.error(
                "an object cannot be interpreted", kind=self._resource.kind, object=name, error=error, effect=effect
            )


class _PodEvent(msgspec.Struct, gc=False):
    type: str
    object: PodJson


_read_pod = msgspec.json.Decoder(PodJson).decode
_read_pod_event = msgspec.json.Decoder(_PodEvent).decode


class Index:
    """Puts collections into a cluster's index. Collections of one type of object (workloads) make one list together."""

    def __init__(self, cluster: Cluster, resources: Sequence[Resource]) -> None:
        self._cluster, self._resources = cluster, resources
        self._missing: dict[type, set[str]] = {}
        for resource in resources:
            self._missing.setdefault(resource.type, set()).add(resource.kind)
        self._shared = {kind for kind, parts in self._missing.items() if len(parts) > 1}
        self._lists: dict[str, dict[Name, Object]] = {}
        self._lock = threading.Lock()

    def replace(self, resource: Resource, objects: list[Object], synced_ns: int) -> None:
        """Replace a collection by a complete list. ``synced_ns``: until when the watch was current."""
        if resource.type not in self._shared:
            self._cluster.replace(resource.type, objects, synced_ns)
            return
        with self._lock:
            self._lists[resource.kind] = {made.key: made for made in objects}
            self._missing[resource.type].discard(resource.kind)
            if not self._missing[resource.type]:
                parts = [r.kind for r in self._resources if r.type is resource.type]
                self._cluster.replace(resource.type, [made for p in parts for made in self._lists[p].values()])

    def apply(self, resource: Resource, change: Change, synced_ns: int) -> None:
        """Apply a change of one element of a collection that has been listed."""
        if resource.type not in self._shared:
            self._cluster.apply([change], synced_ns)
            return
        with self._lock:
            listed = self._lists[resource.kind]
            if change.op == "set":
                listed[change.object.key] = change.object
            else:
                listed.pop(change.object.key, None)
            if not self._missing[resource.type]:
                self._cluster.apply([change])
