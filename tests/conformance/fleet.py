"""The nodes, pods and outside hosts of a case as network namespaces, with the probe's code on each node.

All nodes and outside hosts are connected to one router. Each node has its own pin folder and runs what the probe runs,
:class:`~probe.agent.Agent` and everything below it, except for Kafka. Making a namespace and loading the program are
slow, so later cases reuse both: an address keeps its namespace for as long as a pod on that node has the address, and a
pod that a step deletes loses its namespace.
"""

from __future__ import annotations

import secrets
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from msgspec import structs
from netns import Net, Space, ip, sysctl

from enrich.index.cluster import Cluster, group_by_kind
from enrich.model import Object, Pod
from probe.agent import Agent
from probe.kernel.generations import Generation
from probe.kernel.layout import VERSION, Config
from probe.kernel.maps import Maps
from probe.ledger import Ledger
from probe.node.address_intervals import AddressIntervals
from probe.node.link_clock import LinkClock
from probe.node.netlink import NodeNetwork
from probe.node.network_view import NetworkView
from tests import programs
from tests.conformance.state import State

_SIZES: Final = {
    "RING_BYTES": 1 << 20,
    "CONNECTIONS": 262_144,
    "ADDRESSES": 16384,
    "POLICY_ENTRIES": 16384,
    "PORT_ENTRIES": 16384,
    "DENIED_FLOWS": 16384,
    "ENDPOINTS": 1024,
    "FRAGMENTS": 65536,
    "LOCAL_ADDRESSES": 8192,
}
_GATEWAY_4, _GATEWAY_6 = "169.254.0.1", "fe80::2"
"""The router's addresses on the nodes' uplinks. They differ from the gateway addresses that pods use."""
_UPLINK_ROUTES: Final = (
    f"route replace {_GATEWAY_4} dev eth0",
    f"route replace default via {_GATEWAY_4} dev eth0",
    f"route replace default via {_GATEWAY_6} dev eth0",
)
"""A node's routes over its uplink. The kernel deletes the IPv4 ones when the interface loses its last address."""
_BPFFS: Final = Path("/sys/fs/bpf")


class NotInForceError(Exception):
    """The probe could not bring a step into force; the message has the cause."""


@dataclass
class Host:
    """A node: its namespace, and the parts of the probe in it."""

    name: str
    space: Space
    network: NodeNetwork
    maps: Maps
    ledger: Ledger
    agent: Agent
    addresses: set[str] = field(default_factory=set)
    pods: dict[str, tuple[str, Space]] = field(default_factory=dict)
    """The name and the network namespace of each pod, by address."""

    def close(self) -> None:
        """Close the parts of the probe. Pinned programs and maps stay."""
        self.maps.close()
        self.network.close()
        self.ledger.close()


class Fleet:
    """All namespaces of a run."""

    def __init__(self, folder: Path) -> None:
        """Make the router. ``folder`` is for the nodes' ledgers."""
        self._folder = folder
        self._pins = _BPFFS / f"kubeweir-conformance-{secrets.token_hex(3)}"
        self.net = Net()
        self.router = self.net.node((), "router")
        self._cluster = Cluster()
        self._hosts: dict[str, Host] = {}
        self._outside: dict[str, Space] = {}
        self._routes: dict[str, str] = {}
        self._nodes: dict[str, Host] = {}
        self._case = 0

    def arrange(self, state: State, *, fresh: bool) -> None:
        """Make the state's namespaces. ``fresh`` says that a new case begins, whose pods are all different ones."""
        self._case += fresh
        self._nodes = {node.name: self._host(node.name, node.ip) for node in state.nodes.values()}
        desired: dict[int, dict[str, str]] = {id(host): {} for host in self._hosts.values()}
        for name in state.pods:
            pod = state.pod(name)
            if pod is not None:
                desired[id(self._nodes[pod.node])][pod.ip] = name
        for host in self._hosts.values():
            self._arrange_pods(host, desired[id(host)], fresh=fresh)
        outside = {one.ip for one in state.externals.values()}
        for address in self._outside.keys() - outside:
            self.net.remove(self._outside.pop(address))
        for address in outside - self._outside.keys():
            self._outside[address] = self.net.pod(self.router, address)
        self._route(state)

    def install(self, state: State) -> None:
        """Bring the state into force on every node; return when it is. Raises NotInForceError."""
        self._cluster.replace_all(group_by_kind(self._of_this_case(made) for made in state.objects()))
        for host in self._nodes.values():
            try:
                host.agent.reconcile()
            except Exception as error:  # any error is a failure of this case, and later cases must still run
                raise NotInForceError(f"{host.name}: {type(error).__name__}: {error}") from error
            if host.agent.binding.unattached:
                raise NotInForceError(f"{host.name}: {dict(host.agent.binding.unattached)}")

    def _of_this_case(self, made: Object) -> Object:
        """Return the object. A pod gets a UID of this case: a pod of the same name in another case is another pod."""
        return structs.replace(made, uid=f"{made.uid}-{self._case}") if isinstance(made, Pod) else made

    def host(self, node: str) -> Host:
        """Return the node with this name in the current case."""
        return self._nodes[node]

    def space(self, state: State, end: str) -> Space:
        """Return the namespace of an end of a row."""
        if end in state.externals:
            return self._outside[state.ip(end)]
        node = state.node_of(end)
        assert node is not None
        host = self._nodes[node]
        return host.space if state.pod(end) is None else host.pods[state.ip(end)][1]

    def close(self) -> None:
        """Remove everything: namespaces, maps and programs."""
        for host in self._hosts.values():
            host.close()
        self.net.close()
        shutil.rmtree(self._pins, ignore_errors=True)

    def _host(self, name: str, address: str) -> Host:
        """Return the node with this name; make it for the first case. It keeps the addresses that cases gave it."""
        found = self._hosts.get(name)
        if found is None:
            found = self._hosts[name] = self._load(name, len(self._hosts) + 1)
            # Reconcile before there are pods: at an interface that is older than the probe, a packet may be a reply of
            # a connection that the probe has not seen, and would be treated as one.
            found.agent.reconcile()
        if address not in found.addresses:
            for other in self._hosts.values():
                if address in other.addresses:
                    other.addresses.remove(address)
                    ip(other.space, f"addr del {address}/{_bits(address)} dev eth0", *_UPLINK_ROUTES)
            found.addresses.add(address)
            ip(found.space, f"addr add {address}/{_bits(address)} dev eth0{' nodad' if ':' in address else ''}")
        return found

    def _load(self, name: str, number: int) -> Host:
        space = self.net.node((), f"n{number}")
        # With the default rate limit, only the first of many ICMP errors would be sent, and the rest would look like
        # silence.
        sysctl(space, "net.ipv4.icmp_ratelimit=0", "net.ipv6.icmp.ratelimit=0")
        self._connect_to_router(space, number)
        network = NodeNetwork(space.path)
        maps = Maps.open(self._pins / str(number) / VERSION, _SIZES, cache=programs.CACHE)
        maps.configure(Config.POD_DENIED_FLOWS, 1000)
        maps.configure(Config.POD_CONNECTIONS, 4096)
        ledger = Ledger.open(self._folder / f"ledger-{number}")
        # The intervals' thread is not started, so nothing is published.
        clock = LinkClock()
        intervals = AddressIntervals(name, self._folder / f"intervals-{number}", lambda _: None, clock)
        agent = Agent(name, self._cluster, NetworkView(network, clock), Generation(maps, []), ledger, intervals)
        return Host(name, space, network, maps, ledger, agent)

    def _connect_to_router(self, node: Space, number: int) -> None:
        """Make the node's uplink: a veth pair to the router, with routes to everything that is not on the node."""
        node.link = f"n{number}"
        ip(self.router, f"link add {node.link} type veth peer name eth0 netns {node.name}")
        for space, device in ((self.router, node.link), (node, "eth0")):
            sysctl(space, f"net.ipv6.conf.{device}.accept_dad=0")
        ip(
            self.router,
            f"link set {node.link} up",
            f"addr add {_GATEWAY_4}/32 dev {node.link}",
            f"addr add {_GATEWAY_6}/64 dev {node.link} nodad",
        )
        ip(
            node,
            "link set eth0 up",
            *_UPLINK_ROUTES,
        )

    def _arrange_pods(self, host: Host, desired: dict[str, str], *, fresh: bool) -> None:
        """Make the missing pods and remove the others.

        The agent is notified of changed links, as the kernel's link events do in production. Without this, it could
        miss that an interface was replaced if its node had no pods in the cases between.
        """
        host.agent.links_changed()
        for address, (name, space) in list(host.pods.items()):
            if address not in desired or (name != desired[address] and not fresh):
                self.net.remove(space)
                del host.pods[address]
        for address, name in desired.items():
            existing = host.pods.get(address)
            host.pods[address] = (name, existing[1] if existing else self.net.pod(host.space, address))

    def _route(self, state: State) -> None:
        """Set the router's routes to the nodes, and over them to the pods."""
        nodes = {node.ip: self._nodes[node.name] for node in state.nodes.values()}
        routes = {address: f"{address} dev {host.space.link}" for address, host in nodes.items()}
        for gateway, host in nodes.items():
            routes |= {address: f"{address} via {gateway} dev {host.space.link}" for address in host.pods}
        removed = [f"route del {address}" for address in self._routes.keys() - routes.keys()]
        new = [f"route replace {route}" for address, route in routes.items() if self._routes.get(address) != route]
        if removed or new:
            ip(self.router, *removed, *new)
        self._routes = routes


def _bits(address: str) -> int:
    return 128 if ":" in address else 32
