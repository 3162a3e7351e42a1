"""A second node, and what a CNI plugin and kube-proxy set up on the first: bridges, and DNAT by nftables."""

from __future__ import annotations

import socket
import subprocess
from dataclasses import dataclass, field
from typing import Literal

from netns import Space, ip, run, run_in, sysctl

from tests.kernel.rig import Rig
from tests.kernel.tracking import forget_flows

Wiring = Literal["routed", "bridged"]
VIP = {4: "10.96.0.10", 6: "fd96::a"}
NODE_PORT = 30080


@dataclass
class Site:
    """The rig's node with an uplink to another node, which has a pod and none of our programs."""

    rig: Rig
    wiring: Wiring
    other: Space = field(init=False)
    remote: Space = field(init=False)

    def __post_init__(self) -> None:
        rig, node = self.rig, self.rig.node
        self.other = rig.net.node(("192.0.2.2", "2001:db8:1::2"), "other")
        ip(node, f"link add up0 type veth peer name up0 netns {self.other.name}")
        for space in (node, self.other):
            sysctl(space, "net.ipv6.conf.up0.accept_dad=0", "net.ipv4.conf.up0.rp_filter=0")
        ip(node, "addr add 10.99.0.1/24 dev up0", "addr add fd99::1/64 dev up0 nodad", "link set up0 up",
           "route add 10.244.1.0/24 via 10.99.0.2", "route add fd45::/64 via fd99::2 dev up0",
           "route add 192.0.2.2/32 via 10.99.0.2", "route add 2001:db8:1::2/128 via fd99::2 dev up0")  # fmt: skip
        ip(self.other, "addr add 10.99.0.2/24 dev up0", "addr add fd99::2/64 dev up0 nodad", "link set up0 up",
           "route add default via 10.99.0.1", "route add default via fd99::1 dev up0")  # fmt: skip
        self.remote = rig.net.pod(self.other, "10.244.1.9", "fd45::9")
        if self.wiring == "bridged":
            # Without snooping: what the bridge would ask its ports for is not what a test is about.
            ip(node, "link add br0 type bridge mcast_snooping 0")
            sysctl(node, "net.ipv6.conf.br0.accept_dad=0")
            ip(node, "addr add 10.244.0.254/24 dev br0",
               "addr add fd44::fe/64 dev br0 nodad", "link set br0 up")  # fmt: skip
            sysctl(node, "net.bridge.bridge-nf-call-iptables=1", "net.bridge.bridge-nf-call-ip6tables=1",
                "net.ipv4.conf.br0.send_redirects=0", "net.ipv4.conf.all.send_redirects=0")  # fmt: skip
            rig.connect = self._bridged

    def _bridged(self, node: Space, *addresses: str) -> Space:
        """Make a pod as the CNI plugin bridge does: hairpin mode on its port, the bridge as its gateway."""
        net = self.rig.net
        net._made += 1
        pod = net._space(f"p{net._made}", addresses)
        pod.link = f"v{net._made}"
        ip(node, f"link add {pod.link} type veth peer name eth0 netns {pod.name}")
        sysctl(pod, "net.ipv6.conf.eth0.accept_dad=0")
        ip(node, f"link set {pod.link} master br0", f"link set {pod.link} up",
           f"link set {pod.link} type bridge_slave hairpin on")  # fmt: skip
        families = [(a, *((64, "fd44::fe", " nodad") if ":" in a else (24, "10.244.0.254", ""))) for a in addresses]
        ip(
            pod,
            "link set lo up",
            "link set eth0 up",
            *(f"addr add {address}/{bits} dev eth0{nodad}" for address, bits, _, nodad in families),
            *(f"route add default via {gateway} dev eth0" for _, _, gateway, _ in families),
        )
        pod.index = run_in(node, lambda: socket.if_nametoindex(pod.link))
        return pod

    def proxy(self, *rules: str, masquerade: str = "") -> None:
        """Replace the node's DNAT rules. ``masquerade`` is the match of packets to be masqueraded."""
        after = f"{masquerade} masquerade" if masquerade else ""
        table = (
            "table inet proxy\ndelete table inet proxy\ntable inet proxy {\n"
            f"chain pre {{ type nat hook prerouting priority dstnat; {'; '.join(rules)}; }}\n"
            f"chain out {{ type nat hook output priority -100; {'; '.join(rules)}; }}\n"
            f"chain post {{ type nat hook postrouting priority srcnat; {after}\n }}\n}}"
        )
        nft = ["nsenter", f"--net={self.rig.node.path}", "nft", "-f", "-"]
        subprocess.run(nft, input=table, text=True, check=True)

    def forget_flows(self) -> None:
        """Delete all entries of nf_conntrack, as if they had timed out."""
        forget_flows(self.rig.node)

    def close(self) -> None:
        node = self.rig.node
        self.rig.connect = self.rig.net.pod
        ip(node, "link del up0", *(["link del br0"] if self.wiring == "bridged" else []))
        run(node, "sh", "-c", "nft delete table inet proxy 2>/dev/null; true")
        forget_flows(node)
        self.rig.net.remove(self.remote)
        self.rig.net.remove(self.other)


def service(family: int, backend: Space, port: int = 80, to: int = 8080, protocol: str = "tcp") -> str:
    """Return the DNAT rule of a Service's cluster IP."""
    return _dnat(family, VIP[family], backend, port, to, protocol)


def node_port(family: int, node: Space, backend: Space) -> str:
    """Return the DNAT rule of a NodePort."""
    return _dnat(family, node.address(family), backend, NODE_PORT, 8080, "tcp")


def _dnat(family: int, address: str, backend: Space, port: int, to: int, protocol: str) -> str:
    name = "ip6" if family == 6 else "ip"
    target = f"[{backend.address(6)}]:{to}" if family == 6 else f"{backend.address(4)}:{to}"
    return f"{name} daddr {address} {protocol} dport {port} dnat {name} to {target}"
