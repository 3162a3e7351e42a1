"""The index of the cluster: every object in use by name, and who had which address when.

One writer (the source), many readers. Readers get snapshots: a kind's mapping is replaced, never changed in place, so
that a reader needs no lock and sees no half of a change.

An address belongs to one pod for an interval. Intervals of pods that are gone are kept for ``tail`` so that a record
that comes late is still named. Where two pods may have had it at a moment, none is named: a wrong name is worse than an
address.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from enrich.model import Name, Namespace, NetworkPolicy, Node, Object, Owner, Pod, Service, Workload

KINDS: Final[tuple[type, ...]] = (Pod, Namespace, Node, Service, Workload, NetworkPolicy)
_FOREVER: Final = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class Change:
    """One object set or deleted."""

    op: Literal["set", "delete"]
    object: Object


@dataclass(frozen=True, slots=True)
class Interval:
    """A pod had an address from ``start_ns`` until ``end_ns`` (wall clock)."""

    start_ns: int
    end_ns: int
    pod: Pod


@dataclass(frozen=True, slots=True)
class PodAt:
    """Who had an address at a moment. ``ambiguous``: more than one may have, and none is named."""

    pod: Pod | None = None
    ambiguous: bool = False


class Cluster:
    """The index. ``now_ns`` is the wall clock, for tests."""

    def __init__(self, tail_s: float = 900.0, skew_s: float = 1.0, now_ns: Callable[[], int] = time.time_ns) -> None:
        self.synced = threading.Event()
        """Set when every kind has been listed once."""
        self.generation = 0
        """Grows with every change: what was looked up under an older one is to be looked up again."""
        self._tail_ns, self._skew_ns, self._now_ns = int(tail_s * 1e9), int(skew_s * 1e9), now_ns
        self._objects: dict[type, dict[Name, Any]] = {kind: {} for kind in KINDS}
        self._missing = set(KINDS)
        self._by_ip: dict[str, tuple[Interval, ...]] = {}
        self._by_uid: dict[str, Pod] = {}
        self._node_ips: dict[str, Node] = {}
        self._service_ips: dict[str, Service] = {}
        self._subscribers: list[Callable[[frozenset[type]], None]] = []
        self._write = threading.RLock()

    # --- writing

    def replace(self, kind: type, objects: Iterable[Object]) -> None:
        """The complete list of one kind; what is not in it is gone."""
        with self._write:
            wanted = {made.key: made for made in objects}
            current = self._objects[kind]
            gone = [Change("delete", made) for key, made in current.items() if key not in wanted]
            new = [Change("set", made) for key, made in wanted.items() if current.get(key) != made]
            first = kind in self._missing
            self._missing.discard(kind)
            self._apply([*gone, *new], first=first)
            if not self._missing:
                self.synced.set()

    def apply(self, changes: Iterable[Change]) -> None:
        """Some changes; subscribers are told once."""
        with self._write:
            self._apply(list(changes), first=False)

    def subscribe(self, callback: Callable[[frozenset[type]], None]) -> None:
        """Call back with the kinds that changed, on the writer's thread: be quick."""
        self._subscribers.append(callback)

    def missing(self) -> list[str]:
        """Kinds that have not been listed yet."""
        return sorted(kind.__name__ for kind in self._missing)

    def _apply(self, changes: Sequence[Change], *, first: bool) -> None:
        fresh: dict[type, dict[Name, Any]] = {}
        for change in changes:
            kind = type(change.object)
            table = fresh.setdefault(kind, dict(self._objects[kind]))
            before = table.get(change.object.key)
            if change.op == "set":
                table[change.object.key] = change.object
            else:
                table.pop(change.object.key, None)
            if kind is Pod:
                self._hold(before, change.object if change.op == "set" else None, first=first)
        self._objects.update(fresh)
        if Node in fresh:
            self._node_ips = {ip: node for node in fresh[Node].values() for ip in node.ips}
        if Service in fresh:
            self._service_ips = {ip: made for made in fresh[Service].values() for ip in made.cluster_ips}
        self.generation += 1
        if fresh:
            for callback in self._subscribers:
                callback(frozenset(fresh))

    def _hold(self, before: Pod | None, after: Any, *, first: bool) -> None:
        """Close and open the intervals that a pod's change means."""
        now = self._now_ns()
        same = before is not None and after is not None and before.uid == after.uid
        held = set(_held_ips(before))
        for ip in _held_ips(after):
            if not (same and ip in held):
                # Listed at the start it has it since it started; else since about now.
                start = after.started_ns if first else min(after.started_ns or now, now)
                self._open(ip, after, start)
            else:
                self._by_ip[ip] = tuple(
                    replace(one, pod=after) if one.pod.uid == after.uid else one for one in self._by_ip.get(ip, ())
                )
        for ip in held - (set(_held_ips(after)) if same else set()):
            self._close(ip, before.uid if before else "", now)
        if before is not None and not same:
            self._forget_later(before)
        if after is not None:
            self._by_uid[after.uid] = after

    def _open(self, ip: str, pod: Pod, start: int) -> None:
        kept = [one for one in self._by_ip.get(ip, ()) if one.end_ns > self._now_ns() - self._tail_ns]
        self._by_ip[ip] = (*kept, Interval(start, _FOREVER, pod))

    def _close(self, ip: str, uid: str, now: int) -> None:
        self._by_ip[ip] = tuple(
            replace(one, end_ns=now) if one.pod.uid == uid and one.end_ns == _FOREVER else one
            for one in self._by_ip.get(ip, ())
        )

    def _forget_later(self, pod: Pod) -> None:
        """Pods that are gone for longer than the tail go from the table by UID, a few at a time."""
        limit = self._now_ns() - self._tail_ns
        stale = [
            uid
            for uid, old in list(self._by_uid.items())[:8]
            if uid != pod.uid
            and self._objects[Pod].get(old.key) is not old
            and all(one.end_ns < limit for ip in old.ips for one in self._by_ip.get(ip, ()))
        ]
        for uid in stale:
            for ip in self._by_uid.pop(uid).ips:
                rest = tuple(one for one in self._by_ip.get(ip, ()) if one.pod.uid != uid)
                if rest:
                    self._by_ip[ip] = rest
                else:
                    self._by_ip.pop(ip, None)

    # --- reading

    def pods(self) -> Mapping[Name, Pod]:
        """Every pod that exists."""
        return self._objects[Pod]

    def namespaces(self) -> Mapping[Name, Namespace]:
        """Every namespace."""
        return self._objects[Namespace]

    def nodes(self) -> Mapping[Name, Node]:
        """Every node."""
        return self._objects[Node]

    def services(self) -> Mapping[Name, Service]:
        """Every service."""
        return self._objects[Service]

    def policies(self) -> Mapping[Name, NetworkPolicy]:
        """Every NetworkPolicy."""
        return self._objects[NetworkPolicy]

    def counts(self) -> dict[str, int]:
        """Objects by kind."""
        return {kind.__name__: len(table) for kind, table in self._objects.items()}

    def pod_at(self, ip: str, at_ns: int) -> PodAt:
        """Who had an address at a moment of the wall clock; clocks may differ by ``skew``."""
        intervals = self._by_ip.get(ip)
        if not intervals:
            return PodAt()
        skew = self._skew_ns
        near = {one.pod.uid: one.pod for one in intervals if one.start_ns - skew <= at_ns <= one.end_ns + skew}
        if len(near) > 1:
            return PodAt(ambiguous=True)
        return PodAt(next(iter(near.values()), None))

    def pod_by_uid(self, uid: str) -> Pod | None:
        """A pod that exists or did lately."""
        return self._by_uid.get(uid)

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


def _held_ips(pod: Pod | None) -> tuple[str, ...]:
    """Terminated pods hold no address; a hostNetwork pod's are its node's."""
    return () if pod is None or pod.terminated or pod.host_network else pod.ips


def group_by_kind(objects: Iterable[Object]) -> dict[type, list[Object]]:
    """Objects by kind, every kind of :data:`KINDS` being there."""
    grouped: dict[type, list[Object]] = defaultdict(list)
    for made in objects:
        grouped[type(made)].append(made)
    return {kind: grouped.get(kind, []) for kind in KINDS}
