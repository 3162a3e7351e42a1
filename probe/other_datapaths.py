"""Finds another datapath on the node that owns pods' interfaces, such as Cilium's, and refuses to enforce beside it.

Theory of operation. Cilium, GKE Dataplane V2, Calico's eBPF mode, Antrea and OVN-Kubernetes bring packets from pod to
pod by programs or switches of their own, which may pass by the host's end of a veth, where kubeweir's programs are. A
record that says "denied" would then be a lie, and so would one that says "allowed". So a probe that finds one of them
on a node that it does not enforce yet does nothing there: no program is attached, theirs are not touched, the CNI
plugin is not put in, and pods are as free as before. It says so in the log once, in a metric and in ``/readyz``, and
starts its work when the other one is gone.

A probe that enforces already goes on, because enforcement ends on purpose only, and says the same: what the other
datapath carries is not judged.

Three kinds of evidence count, all of which the probe may read with its rights (the name of a program that is attached
by TCX is not among them):

1. A device that the datapath makes on each node: ``cilium_host``.
2. A tc filter with the name of its programs: ``cil_from_container-lxc12``.
3. Its plugin in the CNI configuration that the container runtime uses: ``cilium-cni``.

Programs that only filter, as those of the AWS VPC CNI's policy agent do, get along with kubeweir's: what one of the two
drops is dropped. But no record tells what theirs drop, so they are named as well.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

import structlog
from prometheus_client import Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from probe.cni.datapaths import datapath_of, first_configuration
from probe.node.filters import Filters, Hook
from probe.node.netlink import Device, NodeNetwork
from probe.settings import Settings

log = structlog.get_logger("kubeweir.probe")

_CALICO: Final = "Calico's eBPF mode"
_DEVICES: Final = {
    "cilium_host": "Cilium",
    "bpfin.cali": _CALICO,
    "bpfnatin": _CALICO,
    "antrea-gw0": "Antrea",
    "ovn-k8s-mp0": "OVN-Kubernetes",
    "ovn0": "Kube-OVN",
}
_FILTERS: Final = {"cil_": "Cilium", "bpf_lxc.o": "Cilium", "cali_tc_": _CALICO, "calico_": _CALICO}
"""What the names of their filters begin with."""
_BESIDE: Final = {"handle_ingress": "the AWS VPC CNI's policy agent", "handle_egress": "the AWS VPC CNI's policy agent"}
"""The names of filters that do no more than filter."""
_HOOKS: Final[tuple[Hook, ...]] = ("ingress", "egress")
_MOST_DEVICES: Final = 32
"""Of so many devices, the newest, the filters are read: a datapath attaches its own to all, and a read takes 1 ms."""
_PERIOD_S: Final = 30.0
"""The time between two looks while the probe enforces."""
_WAITING_PERIOD_S: Final = 5.0
"""The same while it waits to."""
_FIRST_LOOKS: Final = 20
_FIRST_PERIOD_S: Final = 0.25
"""So often, and after this time, the first look is repeated if the kernel does not answer."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Another datapath, or another agent that enforces policy."""

    name: str
    evidence: str
    owns: bool = True
    """Whether it carries packets, and does not only filter them."""


class OtherDatapaths(Collector):
    """Looks for others on one node. A thread of its own looks again while the probe runs."""

    def __init__(self, settings: Settings, network: NodeNetwork) -> None:
        self._settings, self._network = settings, network
        self.enforces = (settings.pin_dir / "links").is_dir()
        """Whether the probe, or the one before it, enforces policy on this node."""
        self.found: tuple[Finding, ...] = ()
        self._knows = False
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def look(self) -> bool:
        """Look once, and log what was not there before; return whether another datapath owns the pods' interfaces.

        If the kernel does not answer, that is what the last look has found. Raises OSError if there was none yet: then
        it is not known."""
        try:
            found = tuple({one.name: one for one in self._find()}.values())
        except OSError:  # the list of devices changed while it was read; the next look follows
            if not self._knows:
                raise
        else:
            self._note(found)
        return any(one.owns for one in self.found)

    def first_look(self, stop: threading.Event) -> bool:
        """Look until the kernel has answered once, or until ``stop``. Raises OSError if it does not."""
        for _ in range(_FIRST_LOOKS):
            with contextlib.suppress(OSError):
                return self.look()
            if stop.wait(_FIRST_PERIOD_S):
                return False
        return self.look()

    def _note(self, found: tuple[Finding, ...]) -> None:
        known, self.found, self._knows = {one.name for one in self.found}, found, True
        for one in found:
            if one.name not in known and one.owns:
                log.error("another datapath owns the pods' interfaces", reason=self._owned(one))
            elif one.name not in known:
                log.warning("another agent enforces policy as well", reason=_beside(one))

    def problem(self) -> str | None:
        """Return why policy is not enforced on this node, or not for all, None if no other datapath is there."""
        return next((self._owned(one) for one in self.found if one.owns), None)

    def notes(self) -> list[str]:
        """Return a line for each agent that enforces policy as well."""
        return [_beside(one) for one in self.found if not one.owns]

    def collect(self) -> Iterator[Metric]:
        """Yield one gauge."""
        family = GaugeMetricFamily(
            "kubeweir_probe_other_datapath",
            "1 for each other datapath or policy agent that was found on the node; enforces: what the probe does then",
            labels=["name", "enforces"],
        )
        for one in self.found:
            family.add_metric([one.name, "yes" if self.enforces or not one.owns else "no"], 1)
        yield family

    def wait_until_gone(self, stop: threading.Event) -> None:
        """Return when no other datapath owns the pods' interfaces, or at ``stop``."""
        while not stop.wait(_WAITING_PERIOD_S) and self.look():
            pass

    def start(self) -> None:
        """Go on to look, on a thread: from now on, the probe enforces."""
        self.enforces = True
        self._thread = threading.Thread(target=self._look_again, name="other-datapaths", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def _look_again(self) -> None:
        while not self._stop.wait(_PERIOD_S):
            self.look()

    def _find(self) -> Iterator[Finding]:
        devices = self._network.devices()
        for device in devices:
            if device.name in _DEVICES:
                yield Finding(_DEVICES[device.name], f"it has made the device {device.name}")
        yield from self._filters(devices)
        with contextlib.suppress(OSError):  # the folder is not mounted
            file = first_configuration(self._settings.cni_conf_dir)
            if file and (named := datapath_of(file.read_text(errors="replace"))):
                yield Finding(named[0], f"{file} names its plugin {named[1]}")

    def _filters(self, devices: Iterable[Device]) -> Iterator[Finding]:
        filters = Filters(self._network)
        for device in sorted(devices, key=lambda device: -device.index)[:_MOST_DEVICES]:
            for one in (one for hook in _HOOKS for one in filters.of(device.index, hook) if not one.ours):
                evidence = f"its program {one.name} is attached to {device.name}"
                for prefix, name in _FILTERS.items():
                    if one.name.startswith(prefix):
                        yield Finding(name, evidence)
                if one.name in _BESIDE:
                    yield Finding(_BESIDE[one.name], evidence, owns=False)

    def _owned(self, one: Finding) -> str:
        if self.enforces:
            return (
                f"{one.name} is on this node, too ({one.evidence}): what it carries passes by kubeweir's programs, and "
                "no policy judges it. Have one of the two uninstalled (docs/recipes.md)"
            )
        return (
            f"{one.name} carries the pods' packets on this node ({one.evidence}), past kubeweir's programs: kubeweir "
            "enforces nothing here, has touched nothing, and starts when it is gone. Uninstall one of the two, or "
            "leave this node out by a nodeSelector (docs/recipes.md)"
        )


def _beside(one: Finding) -> str:
    return f"enforced twice: {one.name} is on ({one.evidence}). What it drops is in no record: switch it off"
