"""A node with the real programs at real veth pairs, in which random clusters take turns, and other ends around it."""

from __future__ import annotations

import functools
import os
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from netns import Space, ip, ping, run_in

from enrich.policy.matching import PolicyView
from enrich.wire.batch import INGRESS
from probe.kernel.layout import Config
from tests.applied.packets import Sent
from tests.applied.worlds import LOCAL, NODES, REMOTE, SERVICE_PORT, VIPS, Case
from tests.kernel.rig import NODE, Rig
from tests.probe.policy.random_clusters import EXTERNALS

Verdicts = np.ndarray[Any, np.dtype[np.void]]
Judged = tuple[int, bool]
"""The index of a packet, and whether it was judged at its destination (ingress)."""
_BLOCK: Final = 200
"""Packets that are sent before their verdicts are read."""
_LONG_S: Final = 120.0
_FIRST_PORT, _PORTS = 2_000, 60_000
_HOPS: Final = 16


class LostError(AssertionError):
    """A packet was judged by nobody, or a verdict is missing."""


class Ground:
    """The network. One case at a time."""

    def __init__(self, folder: Path) -> None:
        self.rig = Rig(folder, "tcx")
        self._spaces = {"node": self.rig.node}
        for name, ips in {**LOCAL, **REMOTE, **NODES, "outside": EXTERNALS}.items():
            self._spaces[name] = self.rig.net.pod(self.rig.node, *ips)
        # The node finds a way to the Services' addresses before they are translated, as by a default route.
        link = self._spaces["outside"].link
        ip(self.rig.node, f"route add 10.96.0.0/16 dev {link}", f"route add fd96::/64 dev {link}")
        for name in (*REMOTE, *NODES, "outside", *LOCAL):
            for family in (4, 6):
                # The first packet waits for no neighbour discovery.
                assert ping(self.rig.node, self._spaces[name].address(family)), name
        self._sockets = {
            (name, family): run_in(space, functools.partial(_raw, family))
            for name, space in self._spaces.items()
            for family in (4, 6)
        }
        self._next_port = _FIRST_PORT
        self.rig.maps.configure(Config.POD_DENIED_FLOWS, 1 << 20)
        self.rig.maps.configure(Config.WINDOW_NS, 0)

    def close(self) -> None:
        """Remove it."""
        for one in self._sockets.values():
            one.close()
        self.rig.close()

    def begin(self, case: Case) -> None:
        """Let the pods and Services of a case be there."""
        rig = self.rig
        rig.objects = {pod.name: pod for pod in case.local}
        rig.pods = {name: self._spaces[name] for name in rig.objects}
        rig.others = {key: pod for key, pod in case.before.pods.items() if pod.node != NODE}
        rig.services = [ip for ips in VIPS for ip in ips]
        _translate(rig.node, case)

    def apply(self, view: PolicyView) -> None:
        """Put the policies of a view in force."""
        rig = self.rig
        rig.namespaces, rig.nodes = dict(view.namespaces), dict(view.nodes)
        rig.policies, rig.cluster_policies = dict(view.policies), dict(view.cluster_policies)
        rig.apply()
        # Windows of earlier packets would count further ones.
        rig.windows.rotate()
        rig.windows.rotate()
        rig.drain()

    def send(self, packets: Sequence[Sent]) -> dict[Judged, Any]:
        """Send packets, each from a port that was not used lately, and return their verdicts."""
        found: dict[Judged, Any] = {}
        for begin in range(0, len(packets), _BLOCK):
            block = dict(enumerate(packets[begin : begin + _BLOCK], begin))
            ports = {index: self._port() for index in block}
            for index, packet in block.items():
                self._send(packet, ports[index])
            found |= self._verdicts(block, ports)
        return found

    def _send(self, packet: Sent, own: int) -> None:
        family = 6 if ":" in packet.source_ip else 4
        self._sockets[packet.source, family].sendto(packet.frame(own), (packet.destination_ip, 0))

    def _verdicts(self, block: Mapping[int, Sent], ports: Mapping[int, int]) -> dict[Judged, Any]:
        """Return the verdicts about some packets, when each has the first that it must have."""
        index_of = {(packet.protocol, ports[index], packet.source_ip): index for index, packet in block.items()}
        found: dict[Judged, Any] = {}
        deadline = time.monotonic() + _LONG_S
        while True:
            _pass_queues()
            for verdict in self.rig.drain():
                key = int(verdict["protocol"]), int(verdict["source_port"]), _text(verdict["source"])
                if (index := index_of.get(key)) is not None:
                    inward = bool(verdict["verdict"] & INGRESS)
                    if (index, inward) in found:
                        raise LostError(f"two verdicts of one end about {block[index]}")
                    found[index, inward] = verdict.copy()
            missing = [one for index, one in block.items() if not {(index, False), (index, True)} & found.keys()]
            if not missing:
                return found
            if time.monotonic() > deadline:
                raise LostError(f"nobody judged {missing[:3]} and {len(missing)} in all")

    def _port(self) -> int:
        self._next_port = _FIRST_PORT + (self._next_port + 1 - _FIRST_PORT) % _PORTS
        return self._next_port


def _raw(family: int) -> socket.socket:
    made = socket.socket(socket.AF_INET6 if family == 6 else socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
    made.settimeout(_LONG_S)
    return made


def _pass_queues() -> None:
    """Return when all packets that were sent before have passed every veth pair.

    A packet waits in the queue of the CPU that sends it, which is first in, first out: what passes the same queue as
    often as a packet has hops comes after it."""
    allowed = os.sched_getaffinity(0)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as marker:
        marker.bind(("127.0.0.1", 0))
        marker.connect(marker.getsockname())
        try:
            for cpu in allowed:
                os.sched_setaffinity(0, {cpu})
                for _ in range(_HOPS):
                    marker.send(b".")
                    marker.recv(1)
        finally:
            os.sched_setaffinity(0, allowed)


def _translate(node: Space, case: Case) -> None:
    """Lead the Services' virtual addresses to their backends, as kube-proxy does."""
    rules = []
    for backend in case.backends:
        ips = {**LOCAL, **REMOTE}[backend.pod]
        for vip, to in zip(backend.service.cluster_ips, ips, strict=True):
            name, target = ("ip6", f"[{to}]") if ":" in to else ("ip", to)
            rules.append(f"{name} daddr {vip} tcp dport {SERVICE_PORT} dnat {name} to {target}:{backend.port}")
    table = (
        "table inet proxy\ndelete table inet proxy\ntable inet proxy {\n"
        f"chain pre {{ type nat hook prerouting priority dstnat; {'; '.join(rules)}; }}\n"
        f"chain out {{ type nat hook output priority -100; {'; '.join(rules)}; }}\n}}"
    )
    subprocess.run(["nsenter", f"--net={node.path}", "nft", "-f", "-"], input=table, text=True, check=True)


def _text(address: np.ndarray[Any, np.dtype[np.uint8]]) -> str:
    raw = address.tobytes()
    mapped = raw[:12] == bytes(10) + b"\xff\xff"
    return socket.inet_ntop(socket.AF_INET if mapped else socket.AF_INET6, raw[12:] if mapped else raw)
