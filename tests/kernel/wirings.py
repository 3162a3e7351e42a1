"""The rig's node wired as CNI plugins of clusters and clouds do it, after what each plugin does step by step.

What differs between them, and what a probe could get wrong:

| wiring | host's end | pod's gateway | what is particular |
|---|---|---|---|
| ptp (kind) | ``veth*`` | an address of the node's range | the gateway's address is on every host end |
| k3s | ``veth*``, port of the bridge ``cni0`` | the bridge | other nodes by VXLAN, MTU 1450 |
| calico | ``cali*``, ee:ee:ee:ee:ee:ee | 169.254.1.1 by proxy ARP | the host's end is made inside the pod |
| eks | ``eni*`` | 169.254.1.1, a static neighbour | so is this; a routing table by pod; one family |
| gke | ``gke*`` | as ptp | MTU 1460; what leaves the VPC is masqueraded |
| aks | ``azv*`` | 169.254.1.1, a static neighbour | the pod's subnet has no route inside |

Clouds give pods addresses that are not in the ranges of the Node object, and those of EKS and AKS are in the subnet of
the node's own card. The cloud's fabric, which answers ARP for them, is played by routes of the other node.
"""

from __future__ import annotations

import re
import secrets
import socket
import subprocess
from dataclasses import dataclass, field
from typing import ClassVar

from netns import Space, ip, run, run_in, sysctl

from tests.kernel.rig import NODE_IPS, Rig
from tests.kernel.site import Site

WORLD = {4: "198.51.100.7", 6: "2001:db8:51::7"}
"""An outside host behind the other node."""
ELSEWHERE = {4: "198.51.100.8", 6: "2001:db8:51::8"}
"""Another one, which no policy allows."""
FAR = {4: "10.244.1.9", 6: "fd45::9"}
"""The other node's pod."""
_VIRTUAL = "169.254.1.1"
_CALICO_MAC, _CALICO_LOCAL = "ee:ee:ee:ee:ee:ee", "fe80::ecee:eeff:feee:eeee"
_AZURE_LOCAL = "fe80::1234:5678:9abc"
_ENI = {4: "10.99.0.3", 6: "fd99::3"}
"""The own address of the second card of a node of EKS."""


@dataclass
class Wiring:
    """A node, its uplink, another node with a pod and two outside hosts. Subclasses connect pods."""

    rig: Rig
    families: ClassVar[tuple[int, ...]] = (4, 6)
    mtu: ClassVar[int] = 1500
    ranges: ClassVar[tuple[str, ...]] = ("10.244.0.0/24", "fd44::/64")
    """What the Node object says of its pods' addresses."""
    prefixes: ClassVar[dict[int, str]] = {4: "10.244.0.", 6: "fd44::"}
    """What pods' addresses begin with."""
    site: Site = field(init=False)
    world: Space = field(init=False)
    elsewhere: Space = field(init=False)

    def __post_init__(self) -> None:
        rig, self.site = self.rig, Site(self.rig, "routed")
        other = self.site.other
        self.world = rig.net.pod(other, *WORLD.values())
        self.elsewhere = rig.net.pod(other, *ELSEWHERE.values())
        # The kernel answers ARP for another (proxy_arp) only if it has a route to it.
        ip(rig.node, "route add default via 10.99.0.2", "route add default via fd99::2 dev up0")
        self.setup()

    def setup(self) -> None:
        """Set up what is there before the first pod. Devices are removed with the site, all else by :meth:`close`."""

    def close(self) -> None:
        self.rig.net.remove(self.world)
        self.rig.net.remove(self.elsewhere)
        self.site.close()

    def addresses(self, number: int) -> tuple[str, ...]:
        """Return the addresses of a pod by its number."""
        return tuple(self.prefixes[family] + (f"{number:x}" if family == 6 else str(number))
                     for family in self.families)  # fmt: skip

    def masquerade(self) -> str:
        """Return the match of what an ip-masq agent has leave with the node's address."""
        return 'oifname "up*" ip daddr 198.51.100.0/24 masquerade\noifname "up*" ip6 daddr 2001:db8:51::/48'

    def connect(self, number: int) -> Space:
        """Make a pod's network as the plugin does."""
        raise NotImplementedError

    def _pod(self, number: int, prefix: str, digits: int) -> Space:
        net = self.rig.net
        net._made += 1
        pod = net._space(f"p{net._made}", self.addresses(number))
        pod.link = prefix + secrets.token_hex(6)[:digits]
        return pod

    def _indexed(self, pod: Space) -> Space:
        pod.index = run_in(self.rig.node, lambda: socket.if_nametoindex(pod.link))
        return pod


class Ptp(Wiring):
    """ptp with host-local, as kindnet and Google's netd configure it."""

    name = "veth"
    gateways: ClassVar[dict[int, str]] = {4: "10.244.0.1", 6: "fd44::1"}

    def connect(self, number: int) -> Space:
        pod, node = self._pod(number, self.name, 11 if self.name == "gke" else 8), self.rig.node
        ip(pod, f"link add eth0 mtu {self.mtu} type veth peer name {pod.link} netns {node.name}")
        sysctl(node, f"net.ipv6.conf.{pod.link}.accept_dad=0")
        sysctl(pod, "net.ipv6.conf.eth0.accept_dad=0")
        ip(node, f"link set {pod.link} mtu {self.mtu} up")
        ip(pod, "link set lo up", "link set eth0 up")
        for address in pod.addresses:
            six = ":" in address
            gateway, bits, subnet = self.gateways[6 if six else 4], 128 if six else 32, 64 if six else 24
            nodad = " nodad" if six else ""
            ip(pod, f"addr add {address}/{subnet} dev eth0 noprefixroute{nodad}",
               f"route add {gateway}/{bits} dev eth0 scope link",
               f"route add {self.ranges[six]} via {gateway} dev eth0",
               f"route add default via {gateway} dev eth0")  # fmt: skip
            ip(node, f"addr add {gateway}/{bits} dev {pod.link}{nodad}",
               f"route add {address}/{bits} dev {pod.link} scope {'global' if six else 'host'}")  # fmt: skip
        return self._indexed(pod)


class Gke(Ptp):
    """GKE without Dataplane V2: pods have alias addresses, which the fabric routes to the node."""

    name = "gke"
    mtu = 1460


class K3s(Wiring):
    """Flannel's VXLAN: the bridge cni0, and a VXLAN device for each family."""

    mtu = 1450

    def setup(self) -> None:
        node = self.rig.node
        ip(node, "link add cni0 mtu 1450 type bridge")
        sysctl(node, "net.ipv6.conf.cni0.accept_dad=0")
        ip(node, "addr add 10.244.0.1/24 dev cni0", "addr add fd44::1/64 dev cni0 nodad", "link set cni0 up")
        sysctl(node, "net.bridge.bridge-nf-call-iptables=1", "net.bridge.bridge-nf-call-ip6tables=1")
        tunnel(self.site, "flannel", 8472, 1)

    def close(self) -> None:
        ip(self.rig.node, "link del cni0", "link del flannel.1", "link del flannel-v6.1")
        super().close()

    def connect(self, number: int) -> Space:
        pod, node = self._pod(number, "veth", 8), self.rig.node
        ip(pod, f"link add eth0 mtu 1450 type veth peer name {pod.link} netns {node.name}")
        sysctl(pod, "net.ipv6.conf.eth0.accept_dad=0")
        ip(node, f"link set {pod.link} mtu 1450 master cni0", f"link set {pod.link} up",
           f"link set {pod.link} type bridge_slave hairpin on")  # fmt: skip
        ip(pod, "link set lo up", "link set eth0 up", f"addr add {pod.address(4)}/24 dev eth0",
           f"addr add {pod.address(6)}/64 dev eth0 nodad", "route add default via 10.244.0.1",
           "route add default via fd44::1 dev eth0", "route add 10.244.0.0/16 via 10.244.0.1")  # fmt: skip
        return self._indexed(pod)


class Calico(Wiring):
    """Calico with routes between nodes (BGP). Its addresses are of its own pools."""

    mtu = 1480
    ranges = ("10.1.0.0/24", "fd01::/64")

    def setup(self) -> None:
        # The block of this node, so that nothing is sent to the default route for an address without a pod.
        ip(self.rig.node, "route add blackhole 10.244.0.0/26 proto 80", "route add blackhole fd44::/122 proto 80")

    def close(self) -> None:
        ip(self.rig.node, "route del blackhole 10.244.0.0/26", "route del blackhole fd44::/122")
        super().close()

    def connect(self, number: int) -> Space:
        pod, node = self._pod(number, "cali", 11), self.rig.node
        ip(pod, f"link add eth0 mtu {self.mtu} type veth peer name {pod.link}")
        sysctl(pod, "net.ipv6.conf.eth0.accept_dad=0", f"net.ipv6.conf.{pod.link}.accept_dad=0")
        ip(pod, f"link set {pod.link} address {_CALICO_MAC}", f"link set {pod.link} up", "link set eth0 up",
           "link set lo up", f"route add {_VIRTUAL} dev eth0 scope link", f"route add default via {_VIRTUAL} dev eth0",
           f"route add default via {_CALICO_LOCAL} dev eth0", f"addr add {pod.address(4)}/32 dev eth0",
           f"addr add {pod.address(6)}/128 dev eth0 nodad", f"link set {pod.link} netns {node.name}")  # fmt: skip
        conf4, conf6 = f"net.ipv4.conf.{pod.link}", f"net.ipv6.conf.{pod.link}"
        sysctl(node, f"{conf4}.route_localnet=1", f"net.ipv4.neigh.{pod.link}.proxy_delay=0", f"{conf4}.proxy_arp=1",
               f"{conf4}.forwarding=1", f"{conf4}.rp_filter=1", f"{conf6}.disable_ipv6=0", f"{conf6}.proxy_ndp=1",
               f"{conf6}.forwarding=1", f"{conf6}.accept_ra=0", f"{conf6}.accept_dad=0")  # fmt: skip
        ip(node, f"link set {pod.link} up", f"route add {pod.address(4)}/32 dev {pod.link} scope link",
           f"route add {pod.address(6)}/128 dev {pod.link}")  # fmt: skip
        return self._indexed(pod)


class CalicoVxlan(Calico):
    """Calico with VXLAN between nodes."""

    mtu = 1450

    def setup(self) -> None:
        super().setup()
        tunnel(self.site, "vxlan.calico", 4789, 4096)

    def close(self) -> None:
        ip(self.rig.node, "link del vxlan.calico", "link del vxlan-v6.calico")
        super().close()


class _Subnet(Wiring):
    """Pods have addresses of the subnet of the node's own card."""

    ranges = ("10.1.0.0/24", "fd01::/64")
    prefixes = {4: "10.99.0.", 6: "fd99::"}  # noqa: RUF012 - as declared above

    def _reach(self, pod: Space, card: str = "10.99.0.1", card6: str = "fd99::1", device: str = "up0") -> None:
        """Have the fabric bring the pod's packets to a card of the node."""
        for address in pod.addresses:
            bits, gateway = (128, card6) if ":" in address else (32, card)
            ip(self.site.other, f"route add {address}/{bits} via {gateway} dev {device}")


class Eks(_Subnet):
    """The AWS VPC CNI: odd pods have an address of the first card, even ones of the second, with a table of its own."""

    mtu = 9001

    def setup(self) -> None:
        node, other = self.rig.node, self.site.other
        ip(node, f"link add up1 type veth peer name up1 netns {other.name}")
        for space in (node, other):
            sysctl(space, "net.ipv6.conf.up1.accept_dad=0", "net.ipv4.conf.up1.rp_filter=2",
                   "net.ipv4.conf.up0.rp_filter=2")  # fmt: skip
        ip(node, "link set up1 up", f"addr add {_ENI[4]}/32 dev up1", f"addr add {_ENI[6]}/128 dev up1 nodad")
        # The other end answers for the subnet's router on both cards.
        ip(other, "link set up1 up", f"route add {_ENI[4]}/32 dev up1", f"route add {_ENI[6]}/128 dev up1")
        ip(other, "addr add fd99::2/128 dev up1 nodad")
        self._change_rules("add")
        ip(node, "route add 10.99.0.2/32 dev up1 scope link table 2", "route add default via 10.99.0.2 dev up1 table 2",
           "route add fd99::2/128 dev up1 table 2", "route add default via fd99::2 dev up1 table 2")  # fmt: skip
        # So that the answer to what came in for a NodePort by the first card leaves by it.
        self._nft("table inet aws\ndelete table inet aws\ntable inet aws { chain pre {\n"
                  "type filter hook prerouting priority mangle;\n"
                  'iifname "up0" fib daddr type local ct mark set ct mark | 0x80\n'
                  'iifname "eni*" meta mark set ct mark & 0x80\n}\n}')  # fmt: skip

    def _change_rules(self, verb: str) -> None:
        family = " -6" if 6 in self.families else ""
        run(self.rig.node, "sh", "-c", f"ip{family} rule {verb} fwmark 0x80/0x80 lookup main priority 1024")

    def _nft(self, text: str) -> None:
        nft = ["nsenter", f"--net={self.rig.node.path}", "nft", "-f", "-"]
        subprocess.run(nft, input=text, text=True, check=True)

    def close(self) -> None:
        self._change_rules("del")
        self._nft("delete table inet aws")
        for family in ("-4", "-6"):
            rules = run(self.rig.node, "ip", family, "rule", "show")
            for priority in re.findall(r"^(512|1536):", rules, re.MULTILINE):
                run(self.rig.node, "ip", family, "rule", "del", "priority", priority)
        ip(self.rig.node, "link del up1")
        super().close()

    def connect(self, number: int) -> Space:
        pod, node, family = self._pod(number, "eni", 11), self.rig.node, self.families[0]
        gateway, bits, nodad = ("fe80::1", 128, " nodad") if family == 6 else (_VIRTUAL, 32, "")
        (address,) = pod.addresses
        ip(pod, f"link add eth0 mtu {self.mtu} type veth peer name {pod.link}", "link set lo up")
        sysctl(pod, "net.ipv6.conf.eth0.accept_dad=0")
        ip(pod, f"link set {pod.link} up", "link set eth0 up", f"route replace {gateway}/{bits} dev eth0 scope link",
           f"route add default via {gateway} dev eth0", f"addr add {address}/{bits} dev eth0{nodad}",
           f"neigh add {gateway} dev eth0 lladdr {_mac(pod, pod.link)} nud permanent",
           f"link set {pod.link} netns {node.name}")  # fmt: skip
        conf = f"net.ipv6.conf.{pod.link}"
        sysctl(node, f"{conf}.accept_ra=0", f"{conf}.accept_redirects=1", f"{conf}.forwarding=0")
        option = "-6 " if family == 6 else ""
        ip(node, f"link set {pod.link} up", f"route replace {address}/{bits} dev {pod.link} scope link")
        rules = [f"{option}rule add to {address}/{bits} lookup main priority 512"]
        if number % 2 == 0:
            rules.append(f"{option}rule add from {address}/{bits} lookup 2 priority 1536")
            self._reach(pod, _ENI[4], _ENI[6], "up1")
        else:
            self._reach(pod)
        for rule in rules:
            run(node, "ip", *rule.split())
        return self._indexed(pod)


class Eks4(Eks):
    """A cluster of EKS with IPv4."""

    families = (4,)


class Eks6(Eks):
    """A cluster of EKS with IPv6."""

    families = (6,)


class Aks(_Subnet):
    """Azure CNI in transparent mode, with addresses of the virtual network."""

    def connect(self, number: int) -> Space:
        pod, node = self._pod(number, "azv", 11), self.rig.node
        ip(node, f"link add {pod.link} mtu {self.mtu} type veth peer name {pod.link}2", f"link set {pod.link} up")
        sysctl(node, f"net.ipv6.conf.{pod.link}.accept_dad=0")
        ip(node, f"route add {pod.address(4)}/32 dev {pod.link}", f"route add {pod.address(6)}/128 dev {pod.link}")
        sysctl(node, f"net.ipv4.conf.{pod.link}.proxy_arp=1")
        ip(node, f"link set {pod.link}2 netns {pod.name}")
        mac = _mac(node, pod.link)
        sysctl(pod, f"net.ipv6.conf.{pod.link}2.accept_dad=0")
        ip(pod, "link set lo up", f"link set {pod.link}2 name eth0", "link set eth0 up",
           f"addr add {pod.address(4)}/24 dev eth0", "route del 10.99.0.0/24 dev eth0",
           f"addr add {pod.address(6)}/64 dev eth0 nodad", "route del fd99::/64 dev eth0",
           f"route add {_VIRTUAL}/32 dev eth0 scope link", f"route add default via {_VIRTUAL} dev eth0",
           f"neigh add {_VIRTUAL} dev eth0 lladdr {mac} nud permanent", f"route add {_AZURE_LOCAL}/128 dev eth0",
           f"route add default via {_AZURE_LOCAL} dev eth0",
           f"neigh add {_AZURE_LOCAL} dev eth0 lladdr {mac} nud permanent")  # fmt: skip
        self._reach(pod)
        return self._indexed(pod)


WIRINGS: dict[str, type[Wiring]] = {
    "ptp": Ptp,
    "k3s": K3s,
    "eks-4": Eks4,
    "eks-6": Eks6,
    "gke": Gke,
    "aks": Aks,
    "calico": Calico,
    "calico-vxlan": CalicoVxlan,
}


def tunnel(site: Site, name: str, port: int, number: int) -> None:
    """Have the two nodes reach each other's pods over a VXLAN device of each family, as Flannel and Calico do."""
    ends = (site.rig.node, "10.244.0.0", "fd44::"), (site.other, "10.244.1.0", "fd45::")
    names = {"flannel": {4: "flannel.1", 6: "flannel-v6.1"}}.get(name) or {4: name, 6: name.replace(".", "-v6.", 1)}
    outer = {4: (NODE_IPS[0], "192.0.2.2"), 6: (NODE_IPS[1], "2001:db8:1::2")}
    for family, device in names.items():
        for at, (space, own4, own6) in enumerate(ends):
            own = own6 if family == 6 else own4
            ip(space, f"link add {device} type vxlan id {number} local {outer[family][at]} dev up0 dstport {port} "
                      "nolearning")  # fmt: skip
            sysctl(space, f"net.ipv6.conf.{device.replace('.', '/')}.accept_dad=0")
            ip(space, f"addr add {own}/{128 if family == 6 else 32} dev {device}", f"link set {device} up")
        for at, (space, *_) in enumerate(ends):
            other, other4, other6 = ends[1 - at]
            via, mac = (other6 if family == 6 else other4), _mac(other, device)
            pods = f"{via}/{64 if family == 6 else 24}"
            if space is site.rig.node:
                ip(space, f"route del {pods}")
            ip(space, f"neigh add {via} dev {device} lladdr {mac} nud permanent",
               f"route add {pods} via {via} dev {device} onlink")  # fmt: skip
            run(space, "bridge", "fdb", "append", mac, "dev", device, "dst", outer[family][1 - at])


def _mac(space: Space, device: str) -> str:
    found = re.search(r"link/ether (\S+)", run(space, "ip", "link", "show", device))
    assert found, device
    return found[1]
