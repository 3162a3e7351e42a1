"""The index of the cluster: every object in use by name, and who had which address when.

Whoever writes (the source's threads) takes a lock. Readers get snapshots that never change once they are handed out, or
look up single entries, and wait for no longer than a change takes.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, Literal, cast

from enrich.index.addresses import Addresses
from enrich.model import (
    POLICY_API_VERSIONS,
    ClusterNetworkPolicy,
    EndpointSlice,
    Name,
    Namespace,
    NetworkPolicy,
    Node,
    Object,
    Owner,
    Pod,
    Service,
    Workload,
)
from enrich.policy.matching import PolicyView

KINDS: Final[tuple[type, ...]] = (
    Pod, Namespace, Node, Service, EndpointSlice, Workload, *POLICY_API_VERSIONS,
)  # fmt: skip
NAMED_KINDS: Final[tuple[type, ...]] = (Pod, Node, Service, EndpointSlice, Workload)
"""What the names in a record are made of."""
POLICY_KINDS: Final[tuple[type, ...]] = (Pod, Namespace, Node, Service, *POLICY_API_VERSIONS)
"""What policy is made of, and the Services that hide whom it is about."""


@dataclass(frozen=True, slots=True)
class Change:
    """One object set or deleted."""

    op: Literal["set", "delete"]
    object: Object


_Edit = tuple[type, Name, "Object | None"]
"""Kind, name, and what is there from now on."""


class Cluster:
    """The index. ``tail_s``: for how long pods that are gone are remembered; ``skew_s``: how far the clocks of the
    nodes and of the API server may differ; ``now_ns``: the wall clock, for tests."""

    def __init__(
        self,
        tail_s: float = 900.0,
        skew_s: float = 1.0,
        now_ns: Callable[[], int] = time.time_ns,
        kinds: Iterable[type] = KINDS,
    ) -> None:
        self.kinds = frozenset(kinds)
        """What its source is to keep in it; all others stay empty."""
        self.synced = threading.Event()
        """Set when every kind has been listed once."""
        self.generation = 0
        """Grows with every change: what was looked up under an older one is to be looked up again."""
        self._now_ns = now_ns
        self._write = threading.RLock()
        self.addresses = Addresses(int(tail_s * 1e9), int(skew_s * 1e9), now_ns, self._write, self._bump_generation)
        """Which pod had which address when."""
        self._objects: dict[type, dict[Name, Any]] = {kind: {} for kind in KINDS}
        self._views: dict[type, Mapping[Name, Any]] = {}
        self._missing = set(self.kinds)
        self._node_ips: dict[str, Node] = {}
        self._service_ips: dict[str, Service] = {}
        self._outside: dict[str, set[Name]] = {}
        self._subscribers: list[Callable[[frozenset[type]], None]] = []

    # --- writing

    def replace(self, kind: type, objects: Iterable[Object], known_ns: int | None = None) -> None:
        """The complete list of one kind; what is not in it is gone. ``known_ns`` as for :meth:`apply`."""
        self.replace_all({kind: objects}, known_ns)

    def replace_all(self, lists: Mapping[type, Iterable[Object]], known_ns: int | None = None) -> bool:
        """The complete lists of some kinds, as one change; whether it changed anything."""
        with self._write:
            edits = (edit for kind, made in lists.items() for edit in _difference(kind, self._objects[kind], made))
            first = self._missing & lists.keys()
            touched = self._apply(edits, first, known_ns) | first
            self._missing -= first
            if not self._missing and not self.synced.is_set():
                self.addresses.set_complete_since(self._now_ns())
                self.synced.set()
        self._tell(touched)
        return bool(touched)

    def apply(self, changes: Iterable[Change], known_ns: int | None = None) -> None:
        """Some changes; subscribers are told once, and only of what really changed.

        ``known_ns``: until when on the wall clock everything was known: the changes were made after that. None: now.
        """
        with self._write:
            edits = [
                (type(change.object), change.object.key, change.object if change.op == "set" else None)
                for change in changes
            ]
            touched = self._apply(edits, set(), known_ns)
        self._tell(touched)

    def subscribe(self, callback: Callable[[frozenset[type]], None]) -> None:
        """Call back with the kinds that changed, on the writer's thread: be quick."""
        self._subscribers.append(callback)

    def missing(self) -> list[str]:
        """Kinds that have not been listed yet."""
        return sorted(kind.__name__ for kind in set(self._missing))

    def _bump_generation(self) -> None:
        self.generation += 1

    def _tell(self, touched: set[type]) -> None:
        if touched:
            for callback in self._subscribers:
                callback(frozenset(touched))

    def _apply(self, edits: Iterable[_Edit], first: set[type], known_ns: int | None) -> set[type]:
        """The kinds that changed. Status updates that change nothing that is kept are no changes."""
        now = self._now_ns()
        known = now if known_ns is None else known_ns
        touched: set[type] = set()
        listed = Pod in first
        for kind, key, after in edits:
            table = self._objects[kind]
            before = table.get(key)
            if before == after:
                continue
            touched.add(kind)
            if after is None:
                table.pop(key)
            else:
                table[key] = after
            if kind is Pod:
                self.addresses.update_pod(before, cast("Pod | None", after), now, known, listed=listed)
        if Node in touched:
            self._node_ips = {ip: node for node in self._objects[Node].values() for ip in node.ips}
        if Service in touched:
            self._service_ips = {ip: made for made in self._objects[Service].values() for ip in made.cluster_ips}
        if EndpointSlice in touched:
            outside: dict[str, set[Name]] = defaultdict(set)
            for made in self._objects[EndpointSlice].values():
                for ip in made.addresses:
                    outside[ip].add(Name(made.namespace, made.service))
            self._outside = outside
        for kind in touched:
            self._views.pop(kind, None)
        self.addresses.evict(now)
        self.generation += bool(touched)
        return touched

    # --- reading

    def _view(self, kind: type) -> Mapping[Name, Any]:
        """A copy that never changes, made when first asked for after a change."""
        found = self._views.get(kind)
        if found is None:
            with self._write:
                found = self._views[kind] = MappingProxyType(dict(self._objects[kind]))
        return found

    def snapshot(self, own_node: str = "") -> PolicyView:
        """What policy is made of, with no change in between, as a node sees it."""
        with self._write:
            return PolicyView(
                self.pods(), self.namespaces(), self.nodes(), self.policies(), self.cluster_policies(), own_node
            )

    def pods(self) -> Mapping[Name, Pod]:
        """Every pod that exists. This and its like never change once they are handed out."""
        return self._view(Pod)

    def namespaces(self) -> Mapping[Name, Namespace]:
        """Every namespace."""
        return self._view(Namespace)

    def nodes(self) -> Mapping[Name, Node]:
        """Every node."""
        return self._view(Node)

    def services(self) -> Mapping[Name, Service]:
        """Every service."""
        return self._view(Service)

    def policies(self) -> Mapping[Name, NetworkPolicy]:
        """Every NetworkPolicy."""
        return self._view(NetworkPolicy)

    def cluster_policies(self) -> Mapping[Name, ClusterNetworkPolicy]:
        """Every ClusterNetworkPolicy."""
        return self._view(ClusterNetworkPolicy)

    def counts(self) -> dict[str, int]:
        """Objects by kind."""
        return {kind.__name__: len(table) for kind, table in self._objects.items()}

    def node_of_ip(self, ip: str) -> Node | None:
        """The node that has an address."""
        return self._node_ips.get(ip)

    def node(self, name: str) -> Node | None:
        """A node by name."""
        found: Node | None = self._objects[Node].get(Name("", name))
        return found

    def service_of(self, ip: str) -> Service | None:
        """The Service that has a cluster IP."""
        return self._service_ips.get(ip)

    def service_behind(self, ip: str) -> Name | None:
        """The one Service that an address which is no pod's stands behind."""
        found = self._outside.get(ip, ())
        return next(iter(found)) if len(found) == 1 else None

    def workload_of(self, pod: Pod) -> Owner | None:
        """What runs the pod, as people call it: the Deployment, not its ReplicaSet; the CronJob, not its Job."""
        owner = pod.owner
        if owner is None:
            return None
        workload = self._objects[Workload].get(Name(pod.namespace, f"{owner.kind}/{owner.name}"))
        if workload is not None and workload.owner is not None:
            above: Owner = workload.owner
            return above
        suffix = f"-{pod.labels.get('pod-template-hash', '')}"
        if workload is None and owner.kind == "ReplicaSet" and len(suffix) > 1 and owner.name.endswith(suffix):
            # A Deployment names its ReplicaSets so (kubernetes/pkg/controller/deployment/sync.go).
            return Owner("Deployment", owner.name.removesuffix(suffix))
        return owner


def _difference(kind: type, current: Mapping[Name, Object], objects: Iterable[Object]) -> Iterator[_Edit]:
    """What makes a table hold these objects, and no others; ``current`` may be changed meanwhile."""
    wanted = {made.key: made for made in objects}
    for key in [key for key in current if key not in wanted]:
        yield kind, key, None
    for key, made in wanted.items():
        yield kind, key, made


def group_by_kind(objects: Iterable[Object]) -> dict[type, list[Object]]:
    """Objects by kind, every kind of :data:`KINDS` being there."""
    grouped: dict[type, list[Object]] = defaultdict(list)
    for made in objects:
        grouped[type(made)].append(made)
    return {kind: grouped.get(kind, []) for kind in KINDS}
