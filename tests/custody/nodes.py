"""The nodes, each with its own namespace, programs, probe and state, and the ways between them.

Between two nodes IPv4 is routed, as in clusters whose CNI plugin makes routes, and IPv6 goes through a VXLAN tunnel, as
in those with an overlay. Each node has a route to every pod of the others, so an address can move to another node.
"""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from netns import GATEWAY_4, Net, Space, ip, sysctl

from tests.custody.script import NODES, Host
from tests.e2e.node import Probe
from tests.kafka.site import until

_LINK, _TUNNEL = "up0", "tun0"
_LINK_MTU: Final = 1600
"""What the tunnel adds has room beside a whole packet of a pod, so nobody is told of a smaller MTU."""
_PORT: Final = 4789


@dataclass
class Node:
    """One node."""

    name: str
    number: int
    space: Space
    folder: Path
    pins: Path
    foreign: list[str] = field(default_factory=lambda: [_LINK])
    """Interfaces that no pod has."""
    probes: list[Probe] = field(default_factory=list)
    away: threading.Event = field(default_factory=threading.Event)
    """Set while no probe runs."""

    @property
    def probe(self) -> Probe:
        """The probe that was started last."""
        return self.probes[-1]

    def host(self) -> Host:
        """Return the node as an end of connections."""
        return Host(self.name, (*self.space.addresses, GATEWAY_4), node=self.name)

    def start_probe(self, env: dict[str, str]) -> None:
        """Start a probe. The one before must have ended."""
        own = {
            "WEIR_NODE": self.name, "WEIR_NETNS": str(self.space.path), "WEIR_PIN_DIR": str(self.pins),
            "WEIR_RUN_DIR": str(self.folder / "run"), "WEIR_STATE_DIR": str(self.folder / "state"),
            "WEIR_POD_INTERFACES": ",".join(f"!{name}" for name in self.foreign),
        }  # fmt: skip
        self.probes.append(Probe(env | own, self.folder / f"probe-{len(self.probes)}.log"))

    def wait_until_bound(self, pods: int) -> None:
        """Wait until the interfaces of so many pods are under policy."""

        def is_done() -> bool | None:
            if "policy:" in self.probe.get("/readyz")[1]:
                return None
            return self.probe.metric("kubeweir_probe_attached_pods") == pods or None

        until(is_done, f"{pods} pods under policy on {self.name}")

    def way(self, to: Node, family: int) -> str:
        """Return how iproute2 says the way to another node."""
        if family == 4:
            return f"via {to.space.address(4)} dev {_LINK} onlink src {self.space.address(4)}"
        return f"via fe80::b:{to.number} dev {_TUNNEL} src {self.space.address(6)}"


def make_nodes(net: Net, folder: Path) -> dict[str, Node]:
    """Make two nodes, and the link and the tunnel between them."""
    found = {}
    for number, name in enumerate(NODES, 1):
        space = net.node((f"192.0.2.{number}", f"2001:db8:1::{number}"), name)
        for kind in ("all", "default"):
            sysctl(space, f"net.ipv4.conf.{kind}.send_redirects=0")
        (folder / name).mkdir()
        pins = Path("/sys/fs/bpf") / f"kubeweir-test-{net.prefix}-{name}"
        found[name] = Node(name, number, space, folder / name, pins)
    one, two = found.values()
    ip(one.space, f"link add {_LINK} type veth peer name {_LINK} netns {two.space.name}")
    for node, other in ((one, two), (two, one)):
        own, to = node.space.address(4), other.space.address(4)
        ip(
            node.space,
            f"link set {_LINK} mtu {_LINK_MTU} up",
            f"route add {to} dev {_LINK} src {own}",
            f"link add {_TUNNEL} mtu 1500 type vxlan id 7 local {own} remote {to} dstport {_PORT} dev {_LINK}",
            f"link set {_TUNNEL} up",
            f"addr add fe80::b:{node.number}/64 dev {_TUNNEL} nodad",
            f"route add {other.space.address(6)} {node.way(other, 6)}",
        )
    return found


def add_routes(nodes: dict[str, Node], at: str, addresses: tuple[str, ...]) -> None:
    """Have every other node send to a node what is for these addresses."""
    _change_routes("replace", nodes, at, addresses)


def remove_routes(nodes: dict[str, Node], at: str, addresses: tuple[str, ...]) -> None:
    """Have no other node know a way to these addresses."""
    _change_routes("del", nodes, at, addresses)


def _change_routes(verb: str, nodes: dict[str, Node], at: str, addresses: tuple[str, ...]) -> None:
    for node in nodes.values():
        if node.name != at:
            ways = ((address, node.way(nodes[at], 6 if ":" in address else 4)) for address in addresses)
            ip(node.space, *(f"route {verb} {address} {way}" for address, way in ways))


def installed(node: Node, tail_bytes: int) -> list[dict[str, Any]]:
    """Return the last lines of a node's probes about installations."""
    found = []
    for probe in list(node.probes)[-2:]:
        with probe.log.open("rb") as file:
            file.seek(max(probe.log.stat().st_size - tail_bytes, 0))
            found += [
                json.loads(text) for text in file.read().split(b"\n")[1:-1]  # the first and the last may be parts
                if b'"policy installed"' in text
            ]  # fmt: skip
    return found
