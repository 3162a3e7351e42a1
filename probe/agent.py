"""Keeps the kernel's policy equal to the cluster's: finds the local pods' interfaces, compiles, installs, attaches.

One thread reconciles whenever the cluster's objects or the node's links change; another ends the deny windows on time.
What cannot be done now (a pod without an interface, a map that is too small) is reported, kept, and tried again: the
state in force stays in force. Stopping leaves enforcement in place; :func:`detach` ends it on purpose.
"""

from __future__ import annotations

import gc
import select
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog

from enrich.index.cluster import Cluster
from enrich.model import Name, Pod, Service
from enrich.wire.batch import EndpointRef, PolicyRef
from probe.kernel.attach import Attachments, Mode
from probe.kernel.deny_windows import DenyWindows
from probe.kernel.endpoints import Bound, Surroundings
from probe.kernel.installer import Installer, InstallError
from probe.kernel.layout import Config
from probe.kernel.maps import Maps
from probe.ledger import Ledger
from probe.node.address_intervals import AddressIntervals
from probe.node.binding import NEWS_S, Binding, bind
from probe.node.netlink import Device, NodeNetwork, Veth
from probe.policy.capacity import capacity_warnings
from probe.policy.compiler import Compiler

log = structlog.get_logger("kubeweir.probe")

_RETRY_S: Final = 1.0
"""How often a pod's interface is looked for again: addresses inside a pod's namespace make no event outside."""
_LINKS_S: Final = 0.05
"""How often it is noted that no link has come or gone: so long, at most, nobody is named where a pod begins or ends."""
_REPORT_S: Final = 30.0
_SETTLE_S: Final = 0.002
"""Changes that come together are compiled together, as are all that come while one is installed."""


@dataclass(frozen=True, slots=True)
class Looked:
    """What a look at the node's network found; ``at_ns``: when on the wall clock."""

    at_ns: int = 0
    veths: tuple[Veth, ...] = ()
    addresses: frozenset[str] = frozenset()
    devices: tuple[Device, ...] = ()


class LedgerReferences:
    """What endpoint and rule numbers stand for, from the ledger."""

    def __init__(self, numbers: Ledger) -> None:
        self._numbers = numbers

    def endpoint(self, number: int) -> EndpointRef | None:
        """The pod behind an endpoint number."""
        meaning = self._numbers.meaning("endpoint", number)
        return EndpointRef(**meaning) if meaning else None

    def rule(self, number: int) -> list[PolicyRef] | None:
        """The policies behind a rule number."""
        meaning = self._numbers.meaning("rule", number)
        return [PolicyRef(**entry) for entry in meaning] if meaning is not None else None


class Agent:
    """The policy half of the probe."""

    def __init__(
        self,
        node: str,
        cluster: Cluster,
        network: NodeNetwork,
        maps: Maps,
        numbers: Ledger,
        holds: AddressIntervals,
        mode: Mode | None = None,
    ) -> None:
        self._node = node
        self._cluster = cluster
        self._network = network
        self._maps = maps
        self._numbers = numbers
        self._holds = holds
        self._compiler = Compiler(numbers)
        self._installer = Installer(maps)
        self._attachments = Attachments(maps, network, mode)
        self._windows = DenyWindows(maps)
        self._binding = Binding()
        self._attached: set[int] = set()
        self._older: frozenset[int] | None = None
        self._reported: dict[str, float] = {}
        self._wake = threading.Event()
        self._links_changed = threading.Event()
        self._links_changed.set()
        self._looked = Looked()
        self._looked_at = 0.0
        self._dry_ns = 0
        """Until when on the wall clock every change of a link has been told."""
        self._local: list[Pod] = []
        self._services: Mapping[Name, Service] = {}
        self._service_addresses: frozenset[str] = frozenset()
        self._stop = threading.Event()
        self.failed = threading.Event()
        """Set when a thread died of something unforeseen; the process is to end."""
        self._problem = "no policy has been installed yet"
        self._threads: list[threading.Thread] = []
        for kind, highest in self._installer.numbers().items():
            numbers.reserve(kind, highest)

    @property
    def mode(self) -> Mode:
        """How the programs are attached."""
        return self._attachments.mode

    @property
    def binding(self) -> Binding:
        """The interfaces that are bound, and the pods that wait for one."""
        return self._binding

    def problem(self) -> str | None:
        """Why the kernel does not have the cluster's policy, None if it has."""
        return self._problem or None

    def start(self, window_s: float) -> None:
        """Begin to reconcile, and to end deny windows every ``window_s`` seconds."""
        self._maps.configure(Config.WINDOW_NS, int(window_s * 1e9))
        self._cluster.subscribe(lambda _kinds: self._wake.set())
        for name, work in (
            ("policy", self._reconcile_loop),
            ("links", self._watch_links),
            ("windows", lambda: self._window_loop(window_s)),
        ):
            thread = threading.Thread(target=self._guard, args=(work,), name=name)
            thread.start()
            self._threads.append(thread)

    def stop(self) -> None:
        """End the threads; closes the windows once more, so that their counts are in the ring. Enforcement stays."""
        self._stop.set()
        self._wake.set()
        for thread in self._threads:
            thread.join()
        self._windows.rotate()

    def links_changed(self) -> None:
        """Interfaces came or went: the next time, all are looked at again."""
        self._links_changed.set()
        self._wake.set()

    def reconcile(self) -> None:
        """Bring the kernel to what the cluster says now. Raises InstallError, OSError."""
        view = self._cluster.snapshot(self._node)
        pods = [pod for pod in view.pods.values() if _is_local(pod, self._node)]
        is_new = self._look(pods)
        last = self._adopted(pods) if self._problem and not self._binding.bound else self._binding
        binding = bind(pods, self._looked.veths, last, time.monotonic(), self._is_later)
        bound = self._number(binding.bound)
        desired = self._compiler.compile(view, list({pod.uid: pod for pod in binding.bound.values()}.values()))
        around = Surroundings(self._dialled(), self._looked.addresses)
        done = self._installer.apply(desired, bound, time.monotonic_ns(), around)
        if is_new:
            self._attach_all(binding.bound)
        self._binding = binding
        self._holds.bound(binding.bound, self._seen_ns())
        if self._problem:
            # What there is now lives long: without it, a collection does not stop a small change for 100 ms.
            gc.freeze()
        self._problem = ""
        self._report(binding)
        if done.addresses or done.endpoints or done.policy_entries or done.port_entries:
            log.info(
                "policy installed", epoch=done.epoch, endpoints=len(bound), policies=len(view.policies),
                changed_addresses=done.addresses, changed_endpoints=done.endpoints,
                changed_policy_entries=done.policy_entries, changed_port_entries=done.port_entries,
            )  # fmt: skip

    def usage(self) -> dict[str, tuple[int, int]]:
        """For each policy map the entries in it, and how many it holds."""
        return self._installer.usage()

    @property
    def identities(self) -> int:
        """How many classes of peers the policies in force tell apart."""
        return self._compiler.identity_count

    def _look(self, pods: list[Pod]) -> bool:
        """Look at the node's network, if something may be new there: at a hundred pods it takes longer than most
        changes of policy. Whether it was looked at."""
        now = time.monotonic()
        moved = self._links_changed.is_set() or pods != self._local or self._binding.waiting or self._problem
        if not moved and now - self._looked_at < _REPORT_S:
            return False
        self._links_changed.clear()
        network = self._network
        self._looked = Looked(
            time.time_ns(), tuple(network.veths()), network.node_addresses(), tuple(network.devices())
        )
        self._looked_at, self._local = now, pods
        if self._older is None:
            self._older = frozenset(veth.index for veth in self._looked.veths)
        return True

    def _seen_ns(self) -> int:
        """Until when the interfaces were as they were looked at last."""
        dry = self._dry_ns
        return self._looked.at_ns if self._links_changed.is_set() else max(dry, self._looked.at_ns)

    def _is_later(self, index: int, pod: Pod) -> bool:
        """Whether an interface came after the API had told the pod's address."""
        came = self._holds.came_ns(index)
        told = max(self._cluster.addresses.published_ns(pod.uid, ip) for ip in pod.ips)
        return 0 < told <= came and time.time_ns() - came < NEWS_S * 1e9

    def _dialled(self) -> frozenset[str]:
        """The addresses of Services."""
        services = self._cluster.services()
        if services is not self._services:
            self._services = services
            self._service_addresses = frozenset(ip for one in services.values() for ip in one.addresses)
        return self._service_addresses

    def _adopted(self, pods: list[Pod]) -> Binding:
        """What the last probe bound, as the maps have it."""
        by_uid = {pod.uid: pod for pod in pods}
        known = {index: self._numbers.meaning("endpoint", end) for index, end in self._installer.endpoints.items()}
        return Binding({index: by_uid[one["uid"]] for index, one in known.items() if one and one["uid"] in by_uid})

    def _number(self, bound: Mapping[int, Pod]) -> list[Bound]:
        return [
            Bound(
                index,
                self._numbers.number_of(
                    "endpoint", pod.uid, {"namespace": pod.namespace, "pod": pod.name, "uid": pod.uid}
                ),
                pod.uid,
                pod.ips,
                older=index in (self._older or ()),
            )
            for index, pod in bound.items()
        ]

    def _attach_all(self, bound: Mapping[int, Pod]) -> None:
        self._attach(bound)
        covered = self._attachments.attach_exits(self._looked.devices, bound)
        if covered:
            log.info("exits attached", devices=covered, mode=self.mode)

    def _attach(self, bound: Mapping[int, Pod]) -> None:
        names = {veth.index: veth.name for veth in self._looked.veths}
        for index, pod in bound.items():
            if index in self._attached and self._attachments.is_attached(index):
                continue
            if not self._attachments.attach(index):
                # The next look at the links misses it too, and unbinds the pod.
                self.links_changed()
                continue
            self._attached.add(index)
            log.info("pod attached", pod=str(pod.key), interface=names[index], mode=self.mode)
        for index in (self._attached | self._attachments.links()) - bound.keys():
            # The interface is gone, and the filters with it; or the pod is, and nobody is to be judged there.
            self._attachments.detach(index)
            self._attached.discard(index)

    def _report(self, binding: Binding) -> None:
        now = time.monotonic()
        told = {f"pod {name}": ("pod is not attached", reason) for name, reason in binding.waiting.items()}
        for name, words in capacity_warnings(self.usage(), self.identities):
            told[name] = ("policy is about to outgrow the maps", words)
        self._reported = {name: at for name, at in self._reported.items() if name in told}
        for name, (event, reason) in told.items():
            if now - self._reported.get(name, -_REPORT_S) >= _REPORT_S:
                self._reported[name] = now
                log.warning(event, what=name, reason=reason)

    def _reconcile_loop(self) -> None:
        while not self._stop.is_set() and not self._cluster.synced.wait(0.2):
            self._problem = f"waiting for the first list of {', '.join(self._cluster.missing())}"
        while not self._stop.is_set():
            self._wake.clear()
            try:
                self.reconcile()
            except (InstallError, OSError) as error:
                self._problem = str(error)
                log.error("policy not installed, the last one stays in force", error=str(error), retry_s=_RETRY_S)
            failed = bool(self._problem or self._binding.waiting)
            self._wake.wait(_RETRY_S if failed else _REPORT_S)
            self._stop.wait(_SETTLE_S)

    def _watch_links(self) -> None:
        with self._network.subscribe() as events:
            while not self._stop.is_set():
                asked = time.time_ns()
                if not select.select([events], [], [], 0)[0]:
                    self._dry_ns = asked
                    if not select.select([events], [], [], _LINKS_S)[0]:
                        continue
                try:
                    self._holds.links(events.recv(1 << 16), self._dry_ns)
                except OSError:
                    # ENOBUFS: some were lost, which is all the same: everything is read again.
                    log.debug("link events overran")
                self.links_changed()

    def _window_loop(self, window_s: float) -> None:
        due = time.monotonic() + window_s
        while not self._stop.wait(max(0.0, due - time.monotonic())):
            self._windows.rotate()
            due = max(due + window_s, time.monotonic())

    def _guard(self, work: Callable[[], None]) -> None:
        """An error that is not foreseen ends the process, loudly: half a probe would look healthy."""
        try:
            work()
        except BaseException:
            log.exception("the policy agent failed")
            self.failed.set()
            raise


def _is_local(pod: Pod, node: str) -> bool:
    return pod.node == node and not pod.host_network and not pod.terminated


def detach(pins: Path, network: NodeNetwork) -> int:
    """End enforcement on purpose: every filter, link and pin goes. Returns the number of interfaces set free."""
    freed = 0
    for device in network.devices():
        for hook in ("ingress", "egress"):
            if (network.filter_name(device.index, hook) or "").startswith("kubeweir_"):
                network.remove_filter(device.index, hook)
                freed += hook == "ingress"
    freed += len(list(pins.rglob("links/*_pod_egress")))
    for path in sorted(pins.rglob("*"), key=lambda found: len(found.parts), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    if pins.exists():
        pins.rmdir()
    return freed
