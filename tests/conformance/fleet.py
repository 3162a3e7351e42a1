"""The nodes, pods and outside hosts of a case as namespaces, each node with the product's own path.

Nodes are joined by an uplink: each hangs on one router, and so do the ends outside the cluster. What a node runs is
what the probe runs: a pin folder of its own, :class:`~probe.agent.Agent` and everything below it; only Kafka is left
out. Making a namespace and loading the program is dear, so both are used again by the cases that follow: an address
keeps its namespace for as long as a pod has it on that node, and a pod that a step deletes goes with its namespace.
"""

from __future__ import annotations

import secrets
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from msgspec import structs
from netns import Net, Space, ip, run

from enrich.index.cluster import Cluster, group_by_kind
from enrich.model import Object, Pod
from probe.agent import Agent
from probe.kernel.layout import VERSION, Config
from probe.kernel.maps import Maps
from probe.ledger import Ledger
from probe.node.address_intervals import AddressIntervals
from probe.node.link_clock import LinkClock
from probe.node.netlink import NodeNetwork
from probe.node.network_view import NetworkView
from tests.conformance.state import State

_SIZES: Final = {
    "RING_BYTES": 1 << 20,
    "CONNECTIONS": 262_144,
    "ADDRESSES": 16384,
    "POLICY_ENTRIES": 16384,
    "PORT_ENTRIES": 16384,
    "DENIED_FLOWS": 16384,
    "ENDPOINTS": 1024,
}
_GATEWAY_4, _GATEWAY_6 = "169.254.0.1", "fe80::2"
"""The router, as nodes see it: others than those that pods see, which are the node's own addresses."""
_WAYS_OUT: Final = (
    f"route replace {_GATEWAY_4} dev eth0",
    f"route replace default via {_GATEWAY_4} dev eth0",
    f"route replace default via {_GATEWAY_6} dev eth0",
)
"""A node's, by its uplink. IPv4 forgets them with an interface's last address."""
_BPFFS: Final = Path("/sys/fs/bpf")


class NotInForceError(Exception):
    """The product did not take a step; the message says what it said."""


@dataclass
class Host:
    """One node: its namespace, and the product in it."""

    name: str
    space: Space
    network: NodeNetwork
    maps: Maps
    ledger: Ledger
    agent: Agent
    addresses: set[str] = field(default_factory=set)
    pods: dict[str, tuple[str, Space]] = field(default_factory=dict)
    """Address to the pod's name and its namespace."""

    def close(self) -> None:
        """End it; what is pinned stays."""
        self.maps.close()
        self.network.close()
        self.ledger.close()


class Fleet:
    """All namespaces of a run."""

    def __init__(self, folder: Path) -> None:
        """``folder`` holds the nodes' ledgers."""
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
        """Make the namespaces as the state says. ``fresh``: of another case, whose pods are others at any rate."""
        self._case += fresh
        self._nodes = {node.name: self._host(node.name, node.ip) for node in state.nodes.values()}
        wanted: dict[int, dict[str, str]] = {id(host): {} for host in self._hosts.values()}
        for name in state.pods:
            pod = state.pod(name)
            if pod is not None:
                wanted[id(self._nodes[pod.node])][pod.ip] = name
        for host in self._hosts.values():
            self._arrange_pods(host, wanted[id(host)], fresh=fresh)
        outside = {one.ip for one in state.externals.values()}
        for address in self._outside.keys() - outside:
            self.net.remove(self._outside.pop(address))
        for address in outside - self._outside.keys():
            self._outside[address] = self.net.pod(self.router, address)
        self._route(state)

    def install(self, state: State) -> None:
        """Tell the product what the cluster is; returns when it is in force on every node. Raises NotInForceError."""
        self._cluster.replace_all(group_by_kind(self._of_this_case(made) for made in state.objects()))
        for host in self._nodes.values():
            try:
                host.agent.reconcile()
            except Exception as error:  # whatever it is, it is the product's answer to this case
                raise NotInForceError(f"{host.name}: {type(error).__name__}: {error}") from error
            if host.agent.binding.unattached:
                raise NotInForceError(f"{host.name}: {dict(host.agent.binding.unattached)}")

    def _of_this_case(self, made: Object) -> Object:
        """A pod of the same name in another case is another pod, as the API server would say it."""
        return structs.replace(made, uid=f"{made.uid}-{self._case}") if isinstance(made, Pod) else made

    def host(self, node: str) -> Host:
        """The node of a name, of the case at hand."""
        return self._nodes[node]

    def space(self, state: State, end: str) -> Space:
        """Where an end of a row is."""
        if end in state.externals:
            return self._outside[state.ip(end)]
        node = state.node_of(end)
        assert node is not None
        host = self._nodes[node]
        return host.space if state.pod(end) is None else host.pods[state.ip(end)][1]

    def close(self) -> None:
        """Everything goes: namespaces, maps, programs."""
        for host in self._hosts.values():
            host.close()
        self.net.close()
        shutil.rmtree(self._pins, ignore_errors=True)

    def _host(self, name: str, address: str) -> Host:
        """A node by its name, which keeps its namespace and has every address that any case gave it."""
        found = self._hosts.get(name)
        if found is None:
            found = self._hosts[name] = self._load(name, len(self._hosts) + 1)
            # Before there are pods: a flow at an interface that is older than the probe may be a reply.
            found.agent.reconcile()
        if address not in found.addresses:
            for other in self._hosts.values():
                if address in other.addresses:
                    other.addresses.remove(address)
                    ip(other.space, f"addr del {address}/{_bits(address)} dev eth0", *_WAYS_OUT)
            found.addresses.add(address)
            ip(found.space, f"addr add {address}/{_bits(address)} dev eth0{' nodad' if ':' in address else ''}")
        return found

    def _load(self, name: str, number: int) -> Host:
        space = self.net.node((), f"n{number}")
        # Else of many refusals only the first would be sent, and the rest be taken for silence.
        run(space, "sysctl", "-qw", "net.ipv4.icmp_ratelimit=0", "net.ipv6.icmp.ratelimit=0")
        self._join(space, number)
        network = NodeNetwork(space.path)
        maps = Maps.open(self._pins / str(number) / VERSION, _SIZES)
        maps.configure(Config.POD_DENIED_FLOWS, 1000)
        maps.configure(Config.POD_CONNECTIONS, 4096)
        ledger = Ledger.open(self._folder / f"ledger-{number}")
        # Never started, so it publishes nothing.
        clock = LinkClock()
        intervals = AddressIntervals(name, self._folder / f"intervals-{number}", lambda _: None, clock)
        agent = Agent(name, self._cluster, NetworkView(network, clock), maps, ledger, intervals)
        return Host(name, space, network, maps, ledger, agent)

    def _join(self, node: Space, number: int) -> None:
        """The uplink: a veth to the router, which is the way to everything that is not on the node."""
        node.link = f"n{number}"
        ip(self.router, f"link add {node.link} type veth peer name eth0 netns {node.name}")
        for space, device in ((self.router, node.link), (node, "eth0")):
            run(space, "sysctl", "-qw", f"net.ipv6.conf.{device}.accept_dad=0")
        ip(
            self.router,
            f"link set {node.link} up",
            f"addr add {_GATEWAY_4}/32 dev {node.link}",
            f"addr add {_GATEWAY_6}/64 dev {node.link} nodad",
        )
        ip(
            node,
            "link set eth0 up",
            *_WAYS_OUT,
        )

    def _arrange_pods(self, host: Host, wanted: dict[str, str], *, fresh: bool) -> None:
        """Make and take away. The agent is told, as by the kernel when it runs: no other sign may be left of a pod that
        went and came in cases between which its node had no part."""
        host.agent.links_changed()
        for address, (name, space) in list(host.pods.items()):
            if address not in wanted or (name != wanted[address] and not fresh):
                self.net.remove(space)
                del host.pods[address]
        for address, name in wanted.items():
            there = host.pods.get(address)
            host.pods[address] = (name, there[1] if there else self.net.pod(host.space, address))

    def _route(self, state: State) -> None:
        """The router's ways to the nodes, and by them to the pods."""
        nodes = {node.ip: self._nodes[node.name] for node in state.nodes.values()}
        wanted = {address: f"{address} dev {host.space.link}" for address, host in nodes.items()}
        for way, host in nodes.items():
            wanted |= {address: f"{address} via {way} dev {host.space.link}" for address in host.pods}
        gone = [f"route del {address}" for address in self._routes.keys() - wanted.keys()]
        new = [f"route replace {way}" for address, way in wanted.items() if self._routes.get(address) != way]
        if gone or new:
            ip(self.router, *gone, *new)
        self._routes = wanted


def _bits(address: str) -> int:
    return 128 if ":" in address else 32
