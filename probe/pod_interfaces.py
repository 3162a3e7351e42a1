"""Follows the interface of each pod of this node, from when it is bound until it is gone or surely another pod's.

:mod:`probe.node.binding` decides, purely, which interface is whose. This module brings it what it needs to know from
the API server, the links and the last probe, and remembers the objects of pods that the API no longer has:

1. The last probe's bindings are in the maps (interface and endpoint number), in the ledger (the number's pod UID) and
   in the file beside it (the pod's object). An interface counts as the last probe's only if our programs are
   attached to it: they do not outlive an interface, but its index may be used again.
2. Afterwards, TCX links say the same at each read of the network. A clsact filter may be removed by another program, so
   there an interface remains until the kernel has announced its removal.
3. An interface that carries our programs, and of whose pod nothing is known any more, stays closed: it has no
   endpoint, so the programs drop its packets (``not_ready``).
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from enrich.index.cluster import Cluster
from enrich.model import Name, Namespace, Pod
from enrich.policy.matching import PolicyView
from probe.kernel.attach import Attachments
from probe.kernel.endpoints import Bound
from probe.ledger import Ledger
from probe.node.assignments import Assignments
from probe.node.binding import API_DELAY_S, Binding, bind
from probe.node.bound_pods import BoundPods
from probe.node.links import is_here
from probe.node.netlink import Veth
from probe.node.network_view import NetworkView
from probe.unenforced_interfaces import UnenforcedInterfaces
from probe.unknown_interfaces import UnknownInterfaces

_UNKNOWN_POD: Final = "unknown_pod: nothing is known of its pod: it stays closed until a pod claims it or it is gone"

STATES: Final = {
    "pod is not attached": "not enforced",
    "exit is not judged": "not enforced",
    "interface is kept": "kept",
    "interface is closed": "closed",
}
"""Events about interfaces in the log, and how ``/readyz`` says the same."""


class PodInterfaces:
    """The bindings of one node. One thread calls :meth:`bind` and :meth:`settle`."""

    def __init__(
        self, cluster: Cluster, view: NetworkView, ledger: Ledger, attachments: Attachments, unknown: UnknownInterfaces
    ) -> None:
        self._cluster, self._view, self._ledger, self._attachments = cluster, view, ledger, attachments
        self._unknown = unknown
        self.unenforced_interfaces = UnenforcedInterfaces(view.network)
        self._saved = BoundPods(ledger.path.with_suffix(".pods"))
        self.binding = Binding()
        """The outcome that was installed last."""
        self.closed: frozenset[int] = frozenset()
        """Interfaces that carry our programs and have no pod."""
        self.assignments = Assignments(ledger.path.with_suffix(".assignments"))
        """What the CNI plugin has said, by any thread."""
        self.assigned: Mapping[int, Pod] = {}
        """The pods that it has named, by interface index, with the addresses that CNI gave them, at the last pass."""
        self._pods: list[Pod] = []
        self._read_at_ns = 0
        """When the network was read that ``binding`` was made from."""

    def bind(self, pods: list[Pod], adopted: dict[int, int] | None, *, was_read: bool) -> Binding:
        """Return who has which interface now; :meth:`settle` takes it over once it is installed.

        ``pods`` are the node's own, without those with hostNetwork. ``adopted`` has the endpoint number of each
        interface that the last probe installed, if this process has installed nothing yet.
        """
        self._pods = pods
        adopting = adopted is not None
        last = self.binding if adopted is None else Binding(self._adopt(pods, adopted))

        def remains(index: int) -> bool:
            if not was_read:
                return True
            if adopting or self._attachments.mode == "tcx":
                return self._attachments.carries(index)
            removed = self._view.clock.disappeared(index)
            return removed is None or removed.by <= self._read_at_ns

        self._forget_assignments(remains, adopting=adopting, was_read=was_read)
        self.assigned = self.assignments.pods(pods)
        veths, now = self._veths(last.bound), time.monotonic()
        return bind(pods, veths, last, now, self._appeared_later, remains, self.assigned, self._is_taken)

    def with_addresses(self, view: PolicyView) -> PolicyView:
        """Return ``view`` with the addresses that CNI has given to pods, until the API server publishes them.

        Without them, another pod of this node would not know the new one as the peer that its policy allows.
        """
        early = {
            pod.key: pod
            for pod in self.assigned.values()
            if (published := view.pods.get(pod.key)) and published.uid == pod.uid and not published.ips
        }
        return dataclasses.replace(view, pods={**view.pods, **early}) if early else view

    def with_namespaces(self, view: PolicyView, binding: Binding) -> PolicyView:
        """Return ``view`` with the last known namespaces of bound pods whose namespace the API no longer has."""
        last = self._saved.namespaces
        missing = {
            Name("", name): last[name]
            for name in {pod.namespace for pod in binding.bound.values()}
            if Name("", name) not in view.namespaces and name in last
        }
        return dataclasses.replace(view, namespaces={**view.namespaces, **missing}) if missing else view

    def save(self, view: PolicyView, binding: Binding) -> None:
        """Write the objects of bound pods and their namespaces to the file, before a map refers to them.

        If the disk takes nothing, that is logged, and the maps refer to pods that the file does not have."""
        names = sorted({pod.namespace for pod in binding.bound.values()})
        found: Iterable[Namespace | None] = (view.namespaces.get(Name("", name)) for name in names)
        self._saved.save(binding.bound.values(), (namespace for namespace in found if namespace is not None))

    def settle(self, binding: Binding, closed: Iterable[int]) -> None:
        """Take over an outcome that is installed, and the interfaces that carry programs and have no pod."""
        self.binding = binding
        self.closed = frozenset(closed)
        self._read_at_ns = self._view.state.read_at_ns

    def close(self, binding: Binding, node: str) -> None:
        """Close interfaces that are not surely one pod's; leave those that surely are not a pod's. Raises OSError."""
        for index in binding.closed:
            if not self._attachments.is_attached(index):
                self._attachments.attach(index)
        found = self._cluster.node(node)
        ranges = found.pod_cidrs if found else ()
        self.unenforced_interfaces.read(binding.bound, self._view.state.veths, self._pods)
        self._unknown.review(binding, self._view.state.veths, ranges, complete=self._cluster.synced.is_set())

    def carries_programs(self, index: int) -> bool:
        """Return whether an interface of this node carries a pod's program of ours. Raises OSError.

        Azure's CNI plugin makes both ends of a pair on the node, and moves one into the pod. TCX links stay at a device
        that is moved to another namespace, where they would close the pod's own end."""
        return self._attachments.carries(index) and self._view.network.run(is_here, index)

    def endpoints(self, binding: Binding) -> list[Bound]:
        """Return an endpoint for each bound interface, numbered by the ledger."""
        return [
            Bound(
                index,
                self._ledger.number_of(
                    "endpoint", pod.uid, {"namespace": pod.namespace, "pod": pod.name, "uid": pod.uid}
                ),
                pod.uid,
                pod.ips,
                older=self._view.was_there_first(index),
            )
            for index, pod in binding.bound.items()
        ]

    def kept(self) -> dict[str, tuple[str, str]]:
        """Return, for each interface that is not bound to the pod that claims it, the pod and the reason, by name."""
        binding = self.binding
        return {self.name(index): (str(binding.bound[index].key), reason) for index, reason in binding.kept.items()}

    def closed_for(self) -> dict[str, str]:
        """Return why each interface is closed that carries our programs and has no pod, by name."""
        reasons = dict.fromkeys(self.closed, _UNKNOWN_POD) | self._unknown.reasons() | dict(self.binding.closed)
        return {self.name(index): reason for index, reason in reasons.items()}

    @property
    def waiting(self) -> bool:
        """Whether the next pass may find something else without any event."""
        return bool(self.binding.incomplete or self._attachments.obstacles or self._unknown.closed)

    def states(self) -> dict[str, tuple[str, str]]:
        """Return all that is not as it should be: event (one of ``STATES``) and reason, by what they concern."""
        pods = {f"pod {name}": ("pod is not attached", reason) for name, reason in self.unenforced().items()}
        exits = {name: ("exit is not judged", reason) for name, reason in self.unjudged_exits().items()}
        kept = {
            f"interface {name} of pod {pod}": ("interface is kept", reason)
            for name, (pod, reason) in self.kept().items()
        }
        quiet = {self.name(index) for index in self._unknown.closed - self._unknown.lasting()}
        closed = {
            f"interface {name}": ("interface is closed", reason)
            for name, reason in self.closed_for().items()
            if name not in quiet
        }
        return pods | exits | kept | closed

    def unenforced(self) -> dict[Name, str]:
        """Return the pods whose policy is not enforced, and why."""
        bound, obstacles = self.binding.bound, self._obstacles()
        closed = {
            bound[index].key: f"its interface {self.name(index)} is closed: {obstacle}"
            for index, obstacle in obstacles.items()
            if index in bound
        }
        return {**self.binding.unattached, **closed}

    def unjudged_exits(self) -> dict[str, str]:
        """Return the devices that are not a pod's and do not have our program, and why."""
        return {
            f"exit {self.name(index)}": f"what NAT hides is not judged there: {obstacle}"
            for index, obstacle in self._obstacles().items()
            if index not in self.binding.bound
        }

    def _obstacles(self) -> dict[int, str]:
        """Return what is in the way of programs, as it is now: any thread may ask while another one attaches them."""
        return dict(self._attachments.obstacles)

    def name(self, index: int) -> str:
        """Return an interface's name, or its index in words if it is gone."""
        names = {device.index: device.name for device in self._view.state.devices}
        return names.get(index, f"interface {index}")

    def _forget_assignments(self, remains: Callable[[int], bool], *, adopting: bool, was_read: bool) -> None:
        """Forget the assignments of interfaces that are gone.

        Those that the last probe has left count if our programs are attached, as its bindings do.
        """
        if adopting:
            self.assignments.forget(lambda index: not self._attachments.carries(index), before_ns=1)
        elif was_read:
            state = self._view.state
            alive = {device.index for device in state.devices}
            self.assignments.forget(
                lambda index: index not in alive or (index in self.binding.bound and not remains(index)),
                before_ns=state.read_at_ns,
            )

    def _veths(self, bound: Iterable[int]) -> list[Veth]:
        """Return the node's veths, and what is bound besides: a pod may have moved the other end to the node."""
        state, indexes = self._view.state, set(bound)
        found = list(state.veths)
        others = indexes - {veth.index for veth in found}
        return found + [Veth(device.index, device.name, frozenset()) for device in state.devices
                        if device.index in others]  # fmt: skip

    def _adopt(self, pods: list[Pod], endpoints: dict[int, int]) -> dict[int, Pod]:
        """Return what the last probe bound: its own objects have the addresses, the API's replace lost ones."""
        known = {pod.uid: pod for pod in pods} | self._saved.pods
        meanings = {index: self._ledger.meaning("endpoint", number) for index, number in endpoints.items()}
        return {index: known[end["uid"]] for index, end in meanings.items() if end and end["uid"] in known}

    def _is_taken(self, address: str) -> bool:
        """Return whether an address is known to be a pod's, a node's or a Service's."""
        owner = self._cluster.addresses.owner_at(address, time.time_ns())
        return bool(
            owner.pod
            or owner.ambiguous
            or address in self._view.state.addresses
            or self._cluster.node_of_ip(address)
            or self._cluster.service_of(address)
        )

    def _appeared_later(self, index: int, pod: Pod) -> bool:
        """Return whether an interface appeared after the API server had published the pod's address."""
        appeared = self._view.clock.appeared(index)
        if appeared is None:
            return False
        published_ns = max(self._cluster.addresses.published_ns(pod.uid, ip) for ip in pod.ips)
        return 0 < published_ns <= appeared.after and time.time_ns() - appeared.after < API_DELAY_S * 1e9
