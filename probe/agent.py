"""Keeps the kernel's policy equal to the cluster's.

Theory of operation. One thread reconciles whenever the cluster's objects or the node's links change. A pass is:

1. Take a snapshot of the cluster's objects, and read the node's network if it may have changed.
2. Bind: decide which interface belongs to which local pod (``probe.pod_interfaces``). The first pass starts from what
   the last probe bound. An interface that was bound stays so, with its pod's last known object, until it is gone.
3. Compile: turn the policies that apply to the bound pods into the desired content of the maps (``probe.policy``).
4. Install: write the difference on the idle side and switch the epoch (``probe.kernel.installer``). What does not fit
   closes its own pods only (``probe.admission``).
5. Attach the programs to interfaces that are newly bound: after the installation, so that no pod is closed for long,
   but also if it fails, and before it if it takes longer. Programs without an installed pod close its interface.
   After an upgrade, this moves every interface to the own generation of maps (``probe.kernel.generations``).
6. Have older connections read (``probe.adoption``), and publish the pods' addresses (``probe.node.address_intervals``).

A pass that fails, because the kernel has no memory for example, leaves the policy in force as it was. It is reported
and retried after a second, as is one that leaves a pod without an interface. Changes during a pass wait for the next.

Three more threads read link events, close the deny windows on time and look up unknown connections. Stopping the agent
leaves enforcement in place; ``probe.kernel.detach`` ends it.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Collection, Mapping
from typing import Final

import structlog

from enrich.index.cluster import Cluster
from enrich.model import Name, Pod
from probe.admission import Admission
from probe.adoption import Adoption
from probe.findings import Findings, log_installation
from probe.kernel.attach import Attachments, Mode
from probe.kernel.endpoints import Surroundings
from probe.kernel.generations import Generation
from probe.kernel.installer import Installer
from probe.kernel.layout import Config
from probe.kernel.room import InstallError
from probe.ledger import Ledger
from probe.ledger_compaction import LedgerCompaction
from probe.node.address_intervals import AddressIntervals
from probe.node.binding import Binding
from probe.node.link_watch import watch_links
from probe.node.network_view import NetworkView
from probe.pod_interfaces import PodInterfaces
from probe.policy.compiler import Compiler
from probe.policy.own_node import OwnNode
from probe.policy.service_addresses import DialledAddresses
from probe.unknown_interfaces import Rules, UnknownInterfaces
from probe.verdict_logging import VerdictLogging

log = structlog.get_logger("kubeweir.probe")

_RETRY_S: Final = 1.0
"""How soon a pass is retried that failed or left a pod without an interface. An address that is added inside a pod's
namespace makes no event outside, so waiting for events would not find it."""
_IDLE_S: Final = 30.0
"""How long the agent waits for a change before it makes a pass without one."""
_SETTLE_S: Final = 0.002
"""How long the agent waits after a change for others that come with it, to compile them in one pass."""


class Agent:
    """Enforces policy on one node, in the passes that the module describes."""

    def __init__(
        self, node: str, cluster: Cluster, view: NetworkView, generation: Generation, ledger: Ledger,
        intervals: AddressIntervals, mode: Mode | None = None, rules: Rules | None = None,
    ) -> None:  # fmt: skip
        self._node, self._cluster, self._view, self._intervals = node, cluster, view, intervals
        self.generation, self._maps = generation, (maps := generation.maps)
        self._compiler = Compiler(ledger)
        self._own_node, self._services = OwnNode(), DialledAddresses()
        self._installer = Installer(maps)
        self.logging = VerdictLogging(cluster, ledger, maps, self._compiler.desired.rules)
        self._installer.before_switch = self.logging.write
        self._admission = Admission(self._compiler, self._installer)
        self._attachments = Attachments(maps, view.network, mode)
        self.adoption = Adoption(maps, view.network)
        bound, left = self._installer.endpoints, ledger.path.with_suffix(".left")
        self._unknown = UnknownInterfaces(view.network, self._attachments, bound, left, rules or Rules())
        self._interfaces = PodInterfaces(cluster, view, ledger, self._attachments, self._unknown)
        self.assignments = self._interfaces.assignments
        self.compaction: LedgerCompaction | None = None
        self._findings, self.in_force = Findings(self._interfaces, self._admission), self._admission.in_force
        self.unenforced_interfaces = self._interfaces.unenforced_interfaces
        self._attached: set[int] = set()
        self._wake, self._stop = threading.Event(), threading.Event()
        self._pods: list[Pod] = []
        """The local pods when the network was last read."""
        self.failed = threading.Event()
        """Set when a thread died of an unexpected error; then the process is to end."""
        self._problem = "no policy has been installed yet"
        self._threads: list[threading.Thread] = []
        for kind, highest in self._installer.numbers().items():
            ledger.reserve(kind, highest)

    @property
    def mode(self) -> Mode:
        """How the programs are attached."""
        return self._attachments.mode

    @property
    def binding(self) -> Binding:
        """The interfaces that are bound to pods, and the pods that have none."""
        return self._interfaces.binding

    @property
    def kept(self) -> dict[str, tuple[str, str]]:
        """Interfaces that stay enforced although their pod does not claim them: pod and reason, by interface name."""
        return self._interfaces.kept()

    @property
    def unenforced(self) -> dict[Name, str]:
        """The pods whose policy is not enforced, and why."""
        return self._interfaces.unenforced()

    @property
    def closed(self) -> dict[str, str]:
        """Why interfaces are closed that carry our programs and have no pod, by interface name."""
        return self._interfaces.closed_for()

    @property
    def identities(self) -> int:
        """How many classes of peers the policies in force tell apart."""
        return self._compiler.identity_count

    def is_attached(self, index: int) -> bool:
        """Return whether both programs are attached to a pod's interface now. Raises OSError."""
        return self._attachments.is_attached(index)

    @property
    def incomplete(self) -> dict[Name, str]:
        """Pods that are closed because their policies, or they themselves, do not fit the maps, with the reason."""
        return self._admission.incomplete

    def problem(self) -> str | None:
        """Return why the kernel does not have the cluster's policy, None if it has."""
        return self._problem or None

    def notes(self) -> list[str]:
        """Return each pod and exit not enforced, each interface kept or closed, and what is wrong with logging."""
        return [*self._findings.notes(), *self.logging.notes()]

    def usage(self) -> dict[str, tuple[int, int]]:
        """Return for each policy map how many entries it has, and how many fit."""
        return self._installer.usage()

    def start(self, window_s: float) -> None:
        """Start to reconcile, and to close the deny windows every ``window_s`` seconds."""
        view, observe = self._view, self._unknown.observe
        self._maps.configure(Config.WINDOW_NS, int(window_s * 1e9))
        self._cluster.subscribe(lambda _kinds: self._wake.set())
        for name, work in (
            ("policy", self._reconcile_loop),
            ("links", lambda: watch_links(view.network, view.clock, observe, self.links_changed, self._stop)),
            ("windows", lambda: self.generation.rotate_every(window_s, self._stop)),
            ("adoption", lambda: self.adoption.run(self._stop)),
        ):
            thread = threading.Thread(target=self._guard, args=(work,), name=name)
            thread.start()
            self._threads.append(thread)

    def stop(self) -> None:
        """End the threads, and close the deny windows so that their counts are in the ring. Enforcement stays."""
        self._stop.set()
        self._wake.set()
        for thread in self._threads:
            thread.join()
        self._intervals.confirm(self._seen_ns(), at_once=True)
        self.generation.rotate()

    def links_changed(self) -> None:
        """Have the next pass read the network again."""
        self._view.invalidate()
        self._wake.set()

    def reconcile(self) -> None:
        """Make one pass. Raises InstallError, OSError; the policy in force is then the one before."""
        objects = self._cluster.snapshot(self._node)
        pods = [pod for pod in objects.pods.values() if pod.node == self._node and not pod.host_network]
        was_read = self._read_network(pods)
        adopted = self._installer.endpoints if self._problem and not self.binding.bound else None
        binding = self._interfaces.bind(pods, adopted, was_read=was_read)
        objects = self._interfaces.with_namespaces(self._interfaces.with_addresses(objects), binding)
        services, own_addresses = self._services.of(self._cluster.services()), self._view.state.addresses
        objects = self._own_node.complete(objects, own_addresses, services)
        bound = self._interfaces.endpoints(binding)
        self._interfaces.save(objects, binding)
        subjects = list({pod.uid: pod for pod in binding.bound.values()}.values())
        surroundings = Surroundings(services, own_addresses)
        closed: Collection[int] = self._interfaces.closed
        self.logging.follow(objects, subjects, bound)
        try:
            done = self._admission.install(objects, subjects, bound, surroundings, lambda: self._attach(binding.bound))
            self.generation.filled = True
        finally:
            if was_read:
                closed = self._attach_all(binding, adopted or ())
        self._interfaces.settle(binding, closed)
        self.adoption.follow({end.index: end.number for end in bound})
        self.assignments.settle({index: pod for index, pod in binding.bound.items() if index in self._attached})
        # Who is kept may not have its address any more, or not alone.
        others = binding.kept.keys() | binding.second
        claimed = {index: pod for index, pod in binding.bound.items() if index not in others}
        self._intervals.update(claimed, self._view.valid_until_ns())
        if self._problem:
            # What exists now lives long. Unless it is frozen, a garbage collection stops a small change for 100 ms.
            gc.freeze()
        self._problem = ""
        self._findings.warn(self.usage(), self.identities)
        log_installation(done, len(bound), len(objects.policies))

    def _read_network(self, pods: list[Pod]) -> bool:
        """Read the network if it may have changed, or if pods may have got an interface; return whether it was read."""
        if not self._view.refresh(force=pods != self._pods or self._is_unfinished()):
            return False
        self._pods = pods
        return True

    def _is_unfinished(self) -> bool:
        return bool(self._problem or self.generation.pending or self._interfaces.waiting)

    def _attach_all(self, binding: Binding, adopted: Collection[int]) -> set[int]:
        """Attach what is missing, and return the interfaces that carry our programs and have no pod."""
        self._attach(binding.bound)
        if not self.generation.filled:
            return set(self._interfaces.closed)
        self._interfaces.close(binding, self._node)
        closed = self._release(binding.bound, {*adopted, *binding.closed})
        covered = self._attachments.attach_exits(self._view.state.devices, binding.bound.keys() | closed)
        if covered:
            log.info("exits attached", devices=covered, mode=self.mode)
        self.generation.finish(self._attachments.move_rest)
        return closed

    def _attach(self, bound: Mapping[int, Pod]) -> None:
        for index, pod in bound.items():
            # Before policy is installed, another generation enforces it where our programs are.
            if (index in self._attached and self._attachments.is_attached(index, bound=True)) or (
                not self.generation.filled and self._attachments.carries(index)
            ):
                continue
            self.generation.carry()
            if not self._attachments.attach(index, bound=True):
                # The interface is gone. The next read of the network does not find it, and the pod is unbound.
                self.links_changed()
                continue
            if index not in self._attachments.obstacles:
                self._attached.add(index)
                log.info("pod attached", pod=str(pod.key), interface=self._interfaces.name(index), mode=self.mode)

    def _release(self, bound: Mapping[int, Pod], adopted: Collection[int]) -> set[int]:
        """Forget the interfaces that are gone, with their pins. Return those that carry our programs and have no pod.

        Programs are never removed from an interface that is there: nobody knows whether its pod still runs.
        """
        forgotten = (self._attached | self._attachments.links()) - bound.keys()
        suspects = forgotten | set(adopted) | self._interfaces.closed
        closed = {index for index in suspects - bound.keys() if self._interfaces.carries_programs(index)}
        for index in forgotten - closed:
            self._attachments.forget(index)
            self._attached.discard(index)
        return closed

    def _reconcile_loop(self) -> None:
        while not self._stop.is_set() and not self._cluster.synced.wait(0.2):
            self._problem = f"waiting for the first list of {', '.join(self._cluster.missing())}"
        while not self._stop.is_set():
            self._wake.clear()
            try:
                self.reconcile()
            except (InstallError, OSError) as error:
                self._problem = str(error)
                log.error("policy was not installed: the one before stays in force", error=str(error), retry_s=_RETRY_S)
            if self.compaction and not self._problem and self.generation.is_alone:
                holders = self._compiler.desired, self._installer, self.generation, self.logging
                self.compaction.step(holders, self._compiler.forget)
            wait_s, retry_s = _RETRY_S if self._is_unfinished() else _IDLE_S, self._admission.retry_in()
            self._intervals.wait(self._wake, wait_s if retry_s is None else min(wait_s, retry_s), self._seen_ns)
            self._stop.wait(_SETTLE_S)

    def _seen_ns(self) -> int:
        """Return until when the pods of the last pass surely were there; 0 if a pass has failed since."""
        return 0 if self._problem or self.failed.is_set() else self._view.valid_until_ns()

    def _guard(self, work: Callable[[], None]) -> None:
        """Run a thread's work. An unexpected error ends the process, because half a probe would look healthy."""
        try:
            work()
        except BaseException:
            log.exception("the policy agent failed")
            self.failed.set()
            raise
