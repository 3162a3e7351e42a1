"""The index of the cluster: every object in use by name, and which pod had which address when.

The threads of a source write under a lock. Readers get snapshots that never change once they are handed out, or look up
single entries; they wait at most as long as one change takes.
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
from enrich.index.changes import Changes, keys_of
from enrich.index.former_facts import FormerFacts
from enrich.index.gone_workloads import GoneWorkloads
from enrich.index.intervals import held_ips
from enrich.index.named_addresses import NamedAddresses
from enrich.model import (
    POLICY_API_VERSIONS,
    TIERED_KINDS,
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
from enrich.network_logging import NetworkLogging
from enrich.policy.matching import PolicyView

KINDS: Final[tuple[type, ...]] = (
    Pod, Namespace, Node, Service, EndpointSlice, Workload, NetworkLogging, *POLICY_API_VERSIONS,
)  # fmt: skip
NAMED_KINDS: Final[tuple[type, ...]] = (Pod, Node, Service, EndpointSlice, Workload)
"""The kinds that the names in a record come from."""
POLICY_KINDS: Final[tuple[type, ...]] = (Pod, Namespace, Node, Service, *POLICY_API_VERSIONS)
"""The kinds that policy depends on, and the Services behind which a peer may be hidden."""
PROBE_KINDS: Final[tuple[type, ...]] = (*POLICY_KINDS, NetworkLogging)
_UNAWAITED: Final = frozenset({NetworkLogging})  # enforcement never waits for what is to be logged

_NAMING_KINDS: Final = frozenset({Node, Service, EndpointSlice, Workload})
"""The kinds beside pods that answers about an address or a pod are made from."""


@dataclass(frozen=True, slots=True)
class Change:
    """One object that was set (created or changed) or deleted."""

    op: Literal["set", "delete"]
    object: Object


_Edit = tuple[type, Name, "Object | None"]
"""Kind, name, and the object from now on; None: it is deleted."""


class Cluster:
    """The index.

    ``tail_s`` says how long pods that are gone stay known, ``skew_s`` by how much the clocks of the nodes and of the
    API server may differ, and ``kinds`` which kinds the source keeps in the index. Tests replace ``now_ns``, the clock.
    """

    def __init__(
        self,
        tail_s: float = 900.0,
        skew_s: float = 1.0,
        now_ns: Callable[[], int] = time.time_ns,
        kinds: Iterable[type] = KINDS,
    ) -> None:
        self.kinds = frozenset(kinds)
        """The kinds that the source keeps in the index; all others stay empty."""
        self.synced = threading.Event()
        """Set once every kind has been listed, except those that nothing waits for."""
        self.generation = 0
        """A number that grows with every change of an object."""
        self.changes = Changes()
        """Which answers each change touches, for readers that keep answers."""
        self._now_ns = now_ns
        self._write = threading.RLock()
        self.addresses = Addresses(int(tail_s * 1e9), int(skew_s * 1e9), now_ns, self._write, self.changes)
        """Which pod had which address when."""
        self.addresses.limit_nodes(lambda node: not self.synced.is_set() or self.node(node) is not None)
        self._objects: dict[type, dict[Name, Any]] = {kind: {} for kind in KINDS}
        self._views: dict[type, Mapping[Name, Any]] = {}
        self._missing = set(self.kinds)
        self.named_addresses = NamedAddresses(int(tail_s * 1e9), int(skew_s * 1e9))
        """Which node or Service has an address, now and before."""
        self.former = FormerFacts(int(tail_s * 1e9), int(skew_s * 1e9))
        """What nodes and workloads were before they changed."""
        self._gone_workloads = GoneWorkloads()
        self._subscribers: list[Callable[[frozenset[type]], None]] = []

    # --- writing

    def replace(self, kind: type, objects: Iterable[Object], synced_ns: int | None = None) -> None:
        """Replace all objects of one kind. ``synced_ns`` as in :meth:`apply`."""
        self.replace_all({kind: objects}, synced_ns)

    def replace_all(self, lists: Mapping[type, Iterable[Object]], synced_ns: int | None = None) -> bool:
        """Replace all objects of some kinds in one change, and return whether anything is different now."""
        with self._write:
            edits = (edit for kind, made in lists.items() for edit in _difference(kind, self._objects[kind], made))
            first = self._missing & lists.keys()
            touched = self._apply(edits, first, synced_ns) | first
            self._missing -= first
            if not self._missing - _UNAWAITED and not self.synced.is_set():
                self.addresses.set_complete_since(self._now_ns())
                self.synced.set()
        self._notify(touched)
        return bool(touched)

    def apply(self, changes: Iterable[Change], synced_ns: int | None = None) -> None:
        """Apply some changes; subscribers are called once, and only with kinds that really changed.

        ``synced_ns``: until when, by the wall clock, the index was current, so that the changes were made after it;
        None: until now."""
        with self._write:
            edits = [
                (type(change.object), change.object.key, change.object if change.op == "set" else None)
                for change in changes
            ]
            touched = self._apply(edits, set(), synced_ns)
        self._notify(touched)

    def subscribe(self, callback: Callable[[frozenset[type]], None]) -> None:
        """Call ``callback`` with the changed kinds after each change, on the writer's thread: it must be quick."""
        self._subscribers.append(callback)

    def missing(self) -> list[str]:
        """Name the kinds that have not been listed yet, and that keep the index from being synced."""
        return sorted(kind.__name__ for kind in self._missing - _UNAWAITED)

    def _notify(self, touched: set[type]) -> None:
        for callback in self._subscribers if touched else ():
            callback(frozenset(touched))

    def _apply(self, edits: Iterable[_Edit], first: set[type], synced_ns: int | None) -> set[type]:
        """Apply the edits and return the kinds that changed. An update of fields that are not kept changes nothing."""
        now = self._now_ns()
        synced_until = now if synced_ns is None else synced_ns
        touched: set[type] = set()
        listed = Pod in first
        for kind, key, after in edits:
            table = self._objects[kind]
            before = table.get(key)
            if before == after:
                continue
            touched.add(kind)
            if kind in _NAMING_KINDS:
                # First: a reader without the lock must not take the new value for one that never changed.
                self.changes.touch(*keys_of(before), *keys_of(after))
                self._gone_workloads.note(before, after)
                self.changes.touch(*self.named_addresses.change(before, after, now, synced_until))
                self.former.note(before, after, now, synced_until)
            if after is None:
                table.pop(key)
            else:
                table[key] = after
            if kind is Pod:
                self.addresses.update_pod(before, cast("Pod | None", after), now, synced_until, listed=listed)
            if kind in (Pod, Node):
                self.changes.touch(*self.named_addresses.distrust_reserved(self._pod_ips(after)))
        self.changes.touch(*self.named_addresses.update(touched, self._objects, now))
        for kind in touched:
            self._views.pop(kind, None)
        self.addresses.evict(now)
        self.changes.touch(*self.named_addresses.evict(now), *self.former.evict(now))
        self.generation += bool(touched)
        self.changes.publish()
        return touched

    def _pod_ips(self, made: Object | None) -> Iterable[str]:
        """Return the addresses of a pod, or those that plugins reserve for a node and pods have."""
        if isinstance(made, Node):
            return [ip for ip in made.reserved_ips if self.addresses.watched_intervals(ip)]
        return held_ips(made) if isinstance(made, Pod) else ()

    # --- reading

    def _view(self, kind: type) -> Mapping[Name, Any]:
        """Return a copy that never changes, made when it is first needed after a change."""
        found = self._views.get(kind)
        if found is None:
            with self._write:
                found = self._views[kind] = MappingProxyType(dict(self._objects[kind]))
        return found

    def snapshot(self, own_node: str = "") -> PolicyView:
        """Return everything that policy depends on, at one moment, as the node ``own_node`` sees it."""
        with self._write:
            return PolicyView(
                self.pods(), self.namespaces(), self.nodes(), self.policies(), self.cluster_policies(), own_node
            )

    def pods(self) -> Mapping[Name, Pod]:
        """Return every pod that exists. This mapping and those below never change once they are handed out."""
        return self._view(Pod)

    def namespaces(self) -> Mapping[Name, Namespace]:
        """Return every namespace."""
        return self._view(Namespace)

    def nodes(self) -> Mapping[Name, Node]:
        """Return every node."""
        return self._view(Node)

    def services(self) -> Mapping[Name, Service]:
        """Return every Service."""
        return self._view(Service)

    def policies(self) -> Mapping[Name, NetworkPolicy]:
        """Return every NetworkPolicy."""
        return self._view(NetworkPolicy)

    def cluster_policies(self) -> Mapping[Name, ClusterNetworkPolicy]:
        """Return every policy of the Admin and the Baseline tier. Two of different kinds may have one name, so the
        keys of AdminNetworkPolicies and the BaselineAdminNetworkPolicy have their kind in place of a namespace."""
        first, *others = (self._view(kind) for kind in TIERED_KINDS)
        if not any(others):
            return first
        named = {Name(type(found).__name__, key.name): found for view in others for key, found in view.items()}
        return {**first, **named}

    def network_loggings(self) -> Mapping[Name, NetworkLogging] | None:
        """Return every NetworkLogging; None while they have not been listed."""
        return None if NetworkLogging in self._missing else self._view(NetworkLogging)

    def counts(self) -> dict[str, int]:
        """Count the objects of each kind."""
        return {kind.__name__: len(table) for kind, table in self._objects.items()}

    def node_of_ip(self, ip: str) -> Node | None:
        """Return the node that has an address, by what the API lists."""
        found = self.named_addresses.node(ip)
        return None if found is None else self.node(found.name)

    def node(self, name: str) -> Node | None:
        """Return the node of a name."""
        return cast("Node | None", self._objects[Node].get(Name("", name)))

    def service_of(self, ip: str) -> Service | None:
        """Return the Service that has a cluster IP."""
        found = self.named_addresses.service(ip)
        return None if found is None else self._objects[Service].get(found)

    def workload(self, key: Name) -> Workload | None:
        """Return the workload of a key, as :attr:`enrich.model.Workload.key` has it."""
        return cast("Workload | None", self._objects[Workload].get(key))

    def workload_of(self, pod: Pod) -> Owner | None:
        """Return what runs the pod, as people call it: the Deployment, not its ReplicaSet; the CronJob, not its Job."""
        return pod.owner and self.runs(pod, self.workload(workload_key(pod.namespace, pod.owner)))

    def runs(self, pod: Pod, workload: Workload | None) -> Owner | None:
        """Return what runs the pod; ``workload`` has the name of its owner, and may be another object."""
        owner = pod.owner
        if owner is None:
            return None
        if workload is None or workload.uid != owner.uid:
            workload = self._gone_workloads.find(owner.uid) or workload
        if workload is not None and workload.owner is not None:
            return workload.owner
        suffix = f"-{pod.labels.get('pod-template-hash', '')}"
        if workload is None and owner.kind == "ReplicaSet" and len(suffix) > 1 and owner.name.endswith(suffix):
            # A Deployment appends this suffix to its name (kubernetes/pkg/controller/deployment/sync.go).
            return Owner("Deployment", owner.name.removesuffix(suffix))
        return owner


def workload_key(namespace: str, owner: Owner) -> Name:
    """Return the name of the workload that is an owner, as :attr:`enrich.model.Workload.key` has it."""
    return Name(namespace, f"{owner.kind}/{owner.name}")


def _difference(kind: type, current: Mapping[Name, Object], objects: Iterable[Object]) -> Iterator[_Edit]:
    """Yield the edits after which a table has exactly these objects. ``current`` may change between the edits."""
    expected = {made.key: made for made in objects}
    for key in [key for key in current if key not in expected]:
        yield kind, key, None
    for key, made in expected.items():
        yield kind, key, made


def group_by_kind(objects: Iterable[Object]) -> dict[type, list[Object]]:
    """Group objects by kind; every kind of :data:`KINDS` is a key."""
    grouped: dict[type, list[Object]] = defaultdict(list)
    for made in objects:
        grouped[type(made)].append(made)
    return {kind: grouped.get(kind, []) for kind in KINDS}
