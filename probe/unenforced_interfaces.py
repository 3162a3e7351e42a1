"""Finds the interfaces of this node's pods that are not enforced, because no veth of the node leads to them.

A pod may have a macvlan, an ipvlan, a netkit device or a whole network card (SR-IOV), as its only interface or beside
the one that is enforced (Multus). Packets there pass no program of ours. The node can list the links and addresses
inside a pod's network namespace by the namespace's id, without entering it. A device inside counts if the device below
it is in another namespace; one upon the pod's own interface is enforced there.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

import structlog

from enrich.model import Pod
from probe.node.links import Link, read_links, read_namespaces
from probe.node.netlink import NodeNetwork, Veth, addresses_in

log = structlog.get_logger("kubeweir.probe")

_EVERY_S: Final = 30.0
_UPON_ANOTHER: Final = frozenset({"macvlan", "macvtap", "ipvlan", "ipvtap", "vlan", "netkit"})
_CARD: Final = "network card"
"""What a device is called whose kind the kernel does not say: a card, or a virtual function of one."""


class UnenforcedInterface(NamedTuple):
    """An interface inside a pod's namespace that is not enforced."""

    namespace: str
    pod: str
    name: str
    kind: str


class UnenforcedInterfaces:
    """What was found last. One thread calls :meth:`read`."""

    def __init__(self, network: NodeNetwork) -> None:
        self._network = network
        self._read_at = float("-inf")
        self._pods: frozenset[str] = frozenset()
        self.found: frozenset[UnenforcedInterface] = frozenset()

    def read(self, bound: Mapping[int, Pod], veths: Iterable[Veth], pods: Iterable[Pod]) -> None:
        """Look into the namespaces of the node's pods, if the pods are others or if that was long ago."""
        known = [pod for pod in pods if not pod.terminated]
        uids = frozenset(f"{pod.uid} {pod.ips}" for pod in known)
        now = time.monotonic()
        if uids == self._pods and now - self._read_at < _EVERY_S:
            return
        self._pods, self._read_at = uids, now
        tenants = {veth.namespace: bound[veth.index] for veth in veths if veth.index in bound}
        found = self._network.run(_find, tenants, {address: pod for pod in known for address in pod.ips})
        for interface in sorted(found - self.found):
            log.warning(
                "a pod has an interface that is not enforced: kubeweir enforces policy at veths only",
                pod=f"{interface.namespace}/{interface.pod}", interface=interface.name, kind=interface.kind,
            )  # fmt: skip
        self.found = found


def _find(tenants: Mapping[int | None, Pod], owners: Mapping[str, Pod]) -> frozenset[UnenforcedInterface]:
    found = set()
    for namespace in {*read_namespaces(), *(one for one in tenants if one is not None)}:
        with contextlib.suppress(OSError):  # the namespace is gone
            pod = tenants.get(namespace) or _owner(namespace, owners)
            if pod is not None:
                found |= {
                    UnenforcedInterface(pod.namespace, pod.name, link.name, link.kind or _CARD)
                    for link in read_links(namespace)
                    if _leads_elsewhere(link)
                }
    return frozenset(found)


def _owner(namespace: int, owners: Mapping[str, Pod]) -> Pod | None:
    """Return the pod that has an address in a namespace to which no bound veth leads."""
    return next((owners[address] for _, address in addresses_in(namespace) if address in owners), None)


def _leads_elsewhere(link: Link) -> bool:
    if link.loopback:
        return False
    return not link.kind or (link.kind in _UPON_ANOTHER and link.namespace is not None)
