"""Pods do not send encapsulation to nodes: what a tunnel device of the node would unwrap is dropped before or after.

The tunnel is a real VXLAN device, as Flannel makes it; the kernel of the tests has no other kind.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from netns import GATEWAY_4, GATEWAY_6, Space, connects, gets_no_answer, ip, listen, open_socket, sysctl

from enrich.model import Node
from probe.kernel.layout import Config, Counter
from tests.kernel.ear import Ear, new_mark
from tests.kernel.frames import Wire, icmp, ipv4, ipv6, mac_of, tcp, udp
from tests.kernel.rig import FAMILIES, Rig, both, of
from tests.kernel.site import VIP, Site

pytestmark = pytest.mark.kernel

WORLD = ("198.51.100.7", "2001:db8:7::7")
FRIEND = {4: "10.244.9.9", 6: "fd46::9"}
"""A pod of another node, which local pods trust."""
FLANNEL, OTHER_PORT = 8472, 9999


@dataclass
class Overlay:
    """A node with the tunnel device ``flannel.1``, a pod that may send nothing, and the world."""

    site: Site
    port: int = FLANNEL
    rig: Rig = field(init=False)
    client: Space = field(init=False)
    world: Space = field(init=False)

    def __post_init__(self) -> None:
        self.rig, node = self.site.rig, self.site.rig.node
        ip(node, f"link add flannel.1 type vxlan id 1 local 192.0.2.1 dstport {self.port} nolearning",
           "link set flannel.1 up")  # fmt: skip
        sysctl(node, "net.ipv4.conf.flannel/1.rp_filter=0", "net.ipv4.conf.all.rp_filter=0")
        self.client = both(self.rig, "a/client", 1)
        self.world = self.rig.net.pod(node, *WORLD)
        self.rig.elsewhere("a/friend", *FRIEND.values())
        other = Node("n2", "n2-uid", {}, self.site.other.addresses)
        self.rig.nodes[other.key] = other
        self.rig.policy("a/out", podSelector={"matchLabels": {"app": "client"}}, policyTypes=["Egress"])
        self.rig.apply()
        self.rig.drain()
        self.mac = mac_of(node, "flannel.1")
        self.ear = Ear(self.world)

    def inner(self, family: int, mark: bytes, protocol: int = 17, source: str = "") -> bytes:
        """Return a packet from the friend to the world, wrapped as VXLAN (RFC 7348 section 5)."""
        body = udp(53, data=mark) if protocol == 17 else tcp(80, 2) + mark
        make = ipv6 if family == 6 else ipv4
        packet = make(source or FRIEND[family], WORLD[family == 6], protocol, body)
        kind = b"\x86\xdd" if family == 6 else b"\x08\x00"
        return struct.pack("!II", 0x08000000, 1 << 8) + self.mac + b"\x02\0\0\0\0\x01" + kind + packet

    def wrapped(self, family: int, to: str, port: int, *, large: bool = False, **what: object) -> bytes:
        """Send a wrapped packet from the client, ``large``: in fragments. Return its mark."""
        mark = new_mark()
        # The inner packet fits the MTU of 1,500, and the outer one does not.
        data = self.inner(family, bytes(1420) * large + mark, **what)  # type: ignore[arg-type]
        with open_socket(self.client, 6 if ":" in to else 4, socket.SOCK_DGRAM) as sender:
            if ":" not in to:
                # IP_MTU_DISCOVER, IP_PMTUDISC_DONT: fragments.
                sender.setsockopt(socket.IPPROTO_IP, 10, 0)
            sender.sendto(data, (to, port))
        return mark

    def reached(self, family: int, *marks: bytes) -> list[bytes]:
        """Return which marks reached the world. What the node sends itself comes after them, by the same neighbour."""
        end = new_mark()
        with open_socket(self.rig.node, family, socket.SOCK_DGRAM) as node:
            node.sendto(end, (WORLD[family == 6], 9))
        return self.ear.heard(list(marks), end)

    def close(self) -> None:
        self.ear.close()
        ip(self.rig.node, "link del flannel.1")
        self.rig.net.remove(self.world)
        self.rig.maps.configure(Config.ENCAPSULATION, 0)
        self.site.close()


@pytest.fixture(params=["routed", "bridged"])
def overlay(rig: Rig, request: pytest.FixtureRequest) -> Iterator[Overlay]:
    made = Overlay(Site(rig, request.param))
    rig.services += VIP.values()
    rig.apply()
    yield made
    made.close()


@pytest.fixture
def routed(rig: Rig) -> Iterator[Overlay]:
    made = Overlay(Site(rig, "routed"), OTHER_PORT)
    yield made
    made.close()


def reasons(rig: Rig) -> set[tuple[str, str, str]]:
    rows = [row for row in of(rig.seen(), subject="a/client") if not row.destination.startswith(("224.", "ff02::16"))]
    return {(row.direction, row.verdict, row.reason) for row in rows}


REFUSED = {("egress", "deny", "encapsulation")}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("protocol", [17, 6])
def test_nothing_comes_out_of_a_tunnel_that_a_pod_has_put_in(overlay: Overlay, family: int, protocol: int) -> None:
    before = overlay.rig.maps.counters()[Counter.ENCAPSULATION]
    marks = [
        overlay.wrapped(family, "192.0.2.1", FLANNEL, protocol=protocol, large=large, source=source)
        for large in (False, True)
        for source in ("", overlay.client.address(family))
    ]
    assert overlay.reached(family, *marks) == []
    assert reasons(overlay.rig) == REFUSED
    assert overlay.rig.maps.counters()[Counter.ENCAPSULATION] == before + 4


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("protocol", [17, 6])
def test_a_service_does_not_lead_into_a_tunnel(overlay: Overlay, family: int, protocol: int) -> None:
    """DNAT to the own node passes no exit; the device gives out the inner packet with the pod's stamp."""
    rig = overlay.rig
    overlay.site.proxy(f"ip daddr {VIP[4]} udp dport 53 dnat ip to 192.0.2.1:{FLANNEL}",
                       f"ip daddr {VIP[4]} udp dport 54 dnat ip to 192.0.2.2:{FLANNEL}")  # fmt: skip
    rig.policy("a/out", podSelector={"matchLabels": {"app": "client"}}, policyTypes=["Egress"], egress=[{}])
    rig.apply()
    marks = [overlay.wrapped(family, VIP[4], 53, protocol=protocol, large=large) for large in (False, True)]
    assert overlay.reached(family, *marks) == []
    assert reasons(rig) == REFUSED
    ear = Ear(overlay.site.other, "up0")
    marks = [overlay.wrapped(family, VIP[4], 54, protocol=protocol, large=large) for large in (False, True)]
    end = new_mark()
    with open_socket(rig.node, 4, socket.SOCK_DGRAM) as node:
        node.sendto(end, ("10.99.0.2", 9))
    assert ear.heard(marks, end) == []
    ear.close()
    assert reasons(rig) == REFUSED


@pytest.mark.parametrize("family", FAMILIES)
def test_the_ports_of_the_nodes_own_devices_count(routed: Overlay, family: int) -> None:
    assert routed.reached(family, routed.wrapped(family, "192.0.2.1", OTHER_PORT)) == []
    assert reasons(routed.rig) == REFUSED


@pytest.mark.parametrize("family", FAMILIES)
def test_where_it_is_open_policy_decides(overlay: Overlay, family: int) -> None:
    """The inner packet does not belong to a pod of this node."""
    overlay.rig.maps.configure(Config.ENCAPSULATION, 1)
    for large in (False, True):
        mark = overlay.wrapped(family, "192.0.2.1", FLANNEL, large=large, protocol=6)
        assert overlay.reached(family, mark) == [mark]
    assert reasons(overlay.rig) == {("egress", "allow", "node")}


def targets(overlay: Overlay) -> list[str]:
    """Return addresses at which a node takes packets: own, the other's, gateways, groups, broadcast, anycast."""
    bridged = ["10.244.0.254", "fd44::fe", "10.244.0.255", "fd44::"] if overlay.site.wiring == "bridged" else []
    gateways = [] if bridged else [GATEWAY_4, GATEWAY_6]
    nodes = [*overlay.rig.node.addresses, *overlay.site.other.addresses, "10.99.0.1", "fd99::1"]
    return [*nodes, *gateways, *bridged, "239.1.1.1", "255.255.255.255", "ff0e::1", "ff02::1"]


def test_every_address_of_a_node_and_every_group_is_closed_to_it(overlay: Overlay) -> None:
    rig = overlay.rig
    # Policy would let all of it pass.
    rig.policy("a/out", podSelector={"matchLabels": {"app": "client"}}, policyTypes=["Egress"], egress=[{}])
    rig.apply()
    wire = Wire(overlay.client, rig.node, "br0" if overlay.site.wiring == "bridged" else "")
    for to in targets(overlay):
        own = overlay.client.address(6 if ":" in to else 4)
        make = ipv6 if ":" in to else ipv4
        for protocol, body in ((17, udp(4789)), (47, bytes(8)), (41, bytes(40)), (4, bytes(20)), (50, bytes(16))):
            wire.send(make(own, to, protocol, body))
            rows = of(rig.seen(), subject="a/client", direction="egress", destination=to)
            assert [(row.verdict, row.reason) for row in rows] == [("deny", "encapsulation")], (to, protocol)
        for protocol, body in ((17, udp(53)), (6, tcp(4789, 2)), (1 if ":" not in to else 58, icmp(13))):
            wire.send(make(own, to, protocol, body))
            assert "encapsulation" not in {row.reason for row in rig.seen()}, (to, protocol)
    wire.close()


def test_a_pod_or_the_world_with_such_a_port_is_no_node(overlay: Overlay) -> None:
    rig = overlay.rig
    server = both(rig, "a/server", 2)
    rig.policy("a/out", podSelector={"matchLabels": {"app": "client"}}, policyTypes=["Egress"], egress=[{}])
    rig.apply()
    overlay.site.proxy(f"ip daddr {VIP[4]} udp dport 4789 dnat ip to {server.address(4)}:4789")
    with open_socket(server, 4, socket.SOCK_DGRAM) as there, open_socket(overlay.client, 4, socket.SOCK_DGRAM) as here:
        there.bind((server.address(4), 4789))
        for to in (server.address(4), VIP[4]):
            here.sendto(b"x", (to, 4789))
            there.sendto(b"y", there.recvfrom(10)[1])
            assert here.recv(10) == b"y"
    mark = overlay.wrapped(4, WORLD[0], 4789)
    assert overlay.reached(4, mark) == [mark]
    assert "encapsulation" not in {row.reason for row in rig.seen()}


def check_overlay(rig: Rig, site: Site, family: int) -> None:
    for space, own, end, here, there in (
        (rig.node, "10.99.0.1", "10.99.0.2", "10.100.0.1", site.remote),
        (site.other, "10.99.0.2", "10.99.0.1", "10.100.0.2", None),
    ):
        ip(space, f"link add flannel.1 type vxlan id 1 local {own} remote {end} dstport 8472")
        sysctl(space, "net.ipv6.conf.flannel/1.accept_dad=0", "net.ipv4.conf.flannel/1.rp_filter=0",
            "net.ipv4.conf.all.rp_filter=0")  # fmt: skip
        number = here[-1]
        ip(space, f"addr add {here}/24 dev flannel.1", f"addr add fd98::{number}/64 dev flannel.1 nodad",
           "link set flannel.1 up")  # fmt: skip
        if there:
            ip(space, "route replace 10.244.1.0/24 via 10.100.0.2", "route replace fd45::/64 via fd98::2")
        else:
            ip(space, "route add 10.244.0.0/24 via 10.100.0.1", "route add fd44::/64 via fd98::1")
    client, closed = both(rig, "a/client", 1), both(rig, "a/closed", 2)
    rig.elsewhere("a/far", *site.remote.addresses)
    far = [{"podSelector": {"matchLabels": {"app": "far"}}}]
    rig.policy("a/client", podSelector={"matchLabels": {"app": "client"}}, policyTypes=["Ingress", "Egress"],
               egress=[{"to": far}], ingress=[{"from": far}])  # fmt: skip
    rig.policy("a/closed", podSelector={"matchLabels": {"app": "closed"}}, policyTypes=["Ingress", "Egress"])
    rig.apply()
    with listen(site.remote, family, 80), listen(client, family, 80), listen(closed, family, 80):
        assert connects(client, site.remote.address(family), 80)
        assert connects(site.remote, client.address(family), 80)
        assert gets_no_answer(closed, site.remote.address(family), 80)
        assert gets_no_answer(site.remote, closed.address(family), 80)
    assert "encapsulation" not in {row.reason for row in rig.seen()}
    for space in (rig.node, site.other):
        ip(space, "link del flannel.1")


@pytest.mark.parametrize("family", FAMILIES)
def test_an_overlay_between_nodes_works(rig: Rig, family: int) -> None:
    """Pods of two nodes by VXLAN: encapsulation that nodes make is theirs."""
    with contextlib.closing(Site(rig, "routed")) as site:
        check_overlay(rig, site, family)
