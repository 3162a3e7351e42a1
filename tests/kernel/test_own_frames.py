"""A pod sends frames from its own link-layer address only: a bridge believes what the source of a frame says."""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from netns import PATIENCE_S, Space, ip, open_socket, run

from probe.kernel.layout import Config, Counter
from tests.kernel.frames import Wire, ipv4, ipv6, mac_of, udp
from tests.kernel.rig import FAMILIES, SIZES, Rig, both
from tests.kernel.site import Site
from tests.kernel.test_closed_until_known import (
    Node,
    make,  # noqa: F401 - a fixture
)
from tests.kernel.test_neighbours import ETHERNET_ARP, SOLICITATION, arp, discovery
from tests.waiting import until

pytestmark = pytest.mark.kernel

BROADCAST = b"\xff" * 6
FRAMES: dict[str, tuple[bytes, int | None]] = {
    "IPv4": (ipv4("10.244.0.1", "10.244.0.254", 17, udp(9)), None),
    "IPv6": (ipv6("fd44::1", "fd44::fe", 17, udp(9)), None),
    "ARP": (arp("10.244.0.1"), ETHERNET_ARP),
    "discovery": (discovery(SOLICITATION, "fd44::fe"), None),
    "an unknown EtherType": (bytes(46), 0x88B5),
    "LLC": (bytes(60), 60),
}
"""Each is proper as such, from a/thief."""
NO_IP = {
    "STP": (b"\x42\x42\x03" + bytes(43), 46),
    "LLDP": (bytes(46), 0x88CC),
    "PPPoE discovery": (bytes(46), 0x8863),
    "PPPoE": (bytes(46), 0x8864),
    "MPLS": (bytes(46), 0x8847),
    "RARP": (bytes(46), 0x8035),
    "802.1X": (bytes(46), 0x888E),
    "Wake on LAN": (bytes(102), 0x0842),
}


class Bridge:
    """Three pods of one bridge: a thief, its victim, and another one."""

    def __init__(self, rig: Rig) -> None:
        self.rig, self.site = rig, Site(rig, "bridged")
        self.thief, self.victim, self.other = (
            both(rig, f"a/{name}", number) for number, name in enumerate(("thief", "victim", "other"), 1)
        )
        rig.apply()
        for family in FAMILIES:
            assert self.arrives(family)
        self.wire = Wire(self.thief, rig.node, "br0")

    def close(self) -> None:
        self.wire.close()
        self.site.close()

    def arrives(self, family: int, wait_s: float = PATIENCE_S) -> bool:
        """Return whether the victim gets a datagram of the other pod, which knows its address."""
        with open_socket(self.victim, family, socket.SOCK_DGRAM) as here:
            here.bind((self.victim.address(family), 9))
            here.settimeout(wait_s)
            with open_socket(self.other, family, socket.SOCK_DGRAM) as there:
                there.sendto(b"x", (self.victim.address(family), 9))
            try:
                return here.recv(10) == b"x"
            except TimeoutError:
                return False

    def port_of(self, space: Space) -> str:
        """Return the port behind which the bridge believes a pod to be."""
        found = json.loads(run(self.rig.node, "bridge", "-j", "fdb", "show", "br", "br0"))
        mac = mac_of(space).hex(":")
        (port,) = {one["ifname"] for one in found if one["mac"] == mac and "permanent" not in one.get("state", "")}
        return str(port)

    def dropped(self) -> int:
        counters = self.rig.maps.counters()
        return counters[Counter.FOREIGN_FRAME] + counters[Counter.NOT_IP]

    def steal(self, name: str) -> None:
        """Send a frame from the victim's address."""
        self.wire.own = mac_of(self.victim)
        packet, kind = FRAMES[name]
        self.wire.send(packet, kind)


@pytest.fixture
def bridge(rig: Rig) -> Iterator[Bridge]:
    made = Bridge(rig)
    yield made
    made.close()


def test_a_bridge_learns_nothing_from_a_pod_that_sends_as_another(bridge: Bridge) -> None:
    for number, name in enumerate(FRAMES):
        before = bridge.dropped()
        bridge.steal(name)
        assert bridge.dropped() == before + 1, name
        assert bridge.port_of(bridge.victim) == bridge.victim.link, name
        assert bridge.arrives(FAMILIES[number % 2])
    seen = bridge.rig.seen()
    assert {(one.reason, one.verdict) for one in seen if one.subject == "a/thief"} == {("spoofed", "deny")}


def test_without_this_the_bridge_believes_the_pod(bridge: Bridge) -> None:
    """Else the test above would show nothing."""
    bridge.rig.maps.configure(Config.ANY_FRAME, 1)
    bridge.steal("IPv4")
    assert bridge.port_of(bridge.victim) == bridge.thief.link
    assert not bridge.arrives(4, 1)


def test_a_pod_that_gives_its_interface_another_address_is_cut_off(bridge: Bridge) -> None:
    own, stolen = mac_of(bridge.thief).hex(":"), mac_of(bridge.victim).hex(":")
    with open_socket(bridge.thief, 4, socket.SOCK_DGRAM) as thief:
        for address, grows in ((stolen, True), ("02:00:00:00:00:99", True), (own, False)):
            ip(bridge.thief, f"link set eth0 address {address}")
            # Attaching again does not read it again.
            bridge.rig.attachments.attach(bridge.thief.index, bound=True)
            before = bridge.rig.maps.counters()[Counter.FOREIGN_FRAME]
            thief.sendto(b"x", ("10.244.0.254", 9))
            if grows:
                until(lambda before=before: bridge.rig.maps.counters()[Counter.FOREIGN_FRAME] > before)  # type: ignore[misc]
            assert bridge.port_of(bridge.victim) == bridge.victim.link
        assert bridge.arrives(4)


@pytest.mark.parametrize("family", FAMILIES)
def test_of_an_open_connection_too(bridge: Bridge, family: int) -> None:
    """Whose packets take the short way otherwise."""
    rig, wire = bridge.rig, bridge.wire
    ends = (bridge.thief.address(family), {4: "10.244.0.254", 6: "fd44::fe"}[family])
    packet = (ipv6 if family == 6 else ipv4)(*ends, 17, udp(9))
    own = wire.own
    for _ in range(50):
        wire.send(packet)
        before = rig.maps.counters()[Counter.FOREIGN_FRAME]
        wire.own = mac_of(bridge.victim)
        wire.send(packet)
        wire.own = own
        wire.send(packet, tags=struct.pack("!HH", 0x8100, 7))
        assert rig.maps.counters()[Counter.FOREIGN_FRAME] == before + 2
    assert bridge.port_of(bridge.victim) == bridge.victim.link


@pytest.mark.parametrize("tag", [0x8100, 0x88A8])
@pytest.mark.parametrize("depth", [1, 2])
def test_a_tag_does_not_take_a_pods_packet_into_another_network(bridge: Bridge, tag: int, depth: int) -> None:
    for network in (0, 1, 7):
        for name in ("IPv4", "IPv6", "ARP", "discovery"):
            before = bridge.dropped()
            packet, kind = FRAMES[name]
            bridge.wire.send(packet, kind, tags=struct.pack("!HH", tag, network) * depth)
            assert bridge.dropped() == before + 1


def test_nothing_but_ip_and_arp_leaves_a_pod(bridge: Bridge) -> None:
    """Not with its own address either: STP, for one, can make a pod the bridge's root."""
    for name, (packet, kind) in NO_IP.items():
        for to in (b"\x01\x80\xc2\0\0\0", BROADCAST, mac_of(bridge.other)):
            before = bridge.rig.maps.counters()[Counter.NOT_IP]
            bridge.wire.send(packet, kind, to=to)
            assert bridge.rig.maps.counters()[Counter.NOT_IP] == before + 1, name


def test_two_ports_of_a_bridge_do_not_have_one_address(bridge: Bridge) -> None:
    """A pod that has taken it before the programs came gets nothing through, until it has its own again."""
    rig, attachments = bridge.rig, bridge.rig.attachments
    late = rig.connect(rig.node, "10.244.0.4", "fd44::4")
    own = mac_of(late).hex(":")
    ip(late, f"link set eth0 address {mac_of(bridge.victim).hex(':')}")
    attachments.attach(late.index, bound=True)
    assert bridge.victim.link in attachments.obstacles[late.index]
    rig.maps.configure(Config.ANY_FRAME, 1)
    attachments.attach(late.index, bound=True)
    assert late.index not in attachments.obstacles
    rig.maps.configure(Config.ANY_FRAME, 0)
    attachments.attach(late.index, bound=True)
    assert late.index in attachments.obstacles
    # Until now its kernel may have sent frames of its own. The victim's next one puts that right.
    for space in (bridge.victim, late):
        with open_socket(space, 4, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"x", ("10.244.0.254", 9))
    assert bridge.port_of(bridge.victim) == bridge.victim.link
    ip(late, f"link set eth0 address {own}")
    attachments.attach(late.index, bound=True)
    assert late.index not in attachments.obstacles
    rig.net.remove(late)


def test_an_interface_whose_address_is_not_known_sends_nothing(bridge: Bridge) -> None:
    """Its programs are there a moment before."""
    rig = bridge.rig
    rig.maps["link_addresses"].drop(bridge.thief.index.to_bytes(4, "little"))
    before = bridge.dropped()
    for name in ("IPv4", "IPv6"):
        packet, kind = FRAMES[name]
        bridge.wire.send(packet, kind)
    assert bridge.dropped() == before
    assert {(one.reason, one.verdict) for one in rig.seen() if one.subject == "a/thief"} >= {("not_ready", "deny")}
    neighbours = rig.maps.counters()[Counter.NEIGHBOUR_DROPPED]
    for name in ("ARP", "discovery"):
        packet, kind = FRAMES[name]
        bridge.wire.send(packet, kind)
    assert rig.maps.counters()[Counter.NEIGHBOUR_DROPPED] == neighbours + 2
    assert not [one for one in rig.seen() if one.subject == "a/thief"], "they have no verdict, as ever"


def test_pods_with_routes_of_their_own_may_share_an_address(rig: Rig) -> None:
    """Some CNI plugins give it to all."""
    pods = [both(rig, f"a/{number}", number) for number in (1, 2)]
    for pod in pods:
        ip(pod, "link set eth0 address 02:00:00:00:00:07")
    rig.apply()
    assert not rig.attachments.obstacles
    assert rig.own_frame(pods[0].index, bytes(14)) == rig.own_frame(pods[1].index, bytes(14))


@pytest.mark.one_mode
def test_the_next_probe_and_another_generation_keep_it(tmp_path: Path) -> None:
    rig = Rig(tmp_path, "tcx")
    client = both(rig, "a/client", 1)
    rig.apply()
    before = rig.own_frame(client.index, bytes(14))
    ip(client, "link set eth0 address 02:00:00:00:00:99")
    for sizes in (SIZES, {**SIZES, "ADDRESSES": SIZES["ADDRESSES"] * 2}):
        rig.crash()
        rig.sizes, rig.attached = sizes, set()
        rig.open()
        rig.apply()
        assert rig.own_frame(client.index, bytes(14)) == before
    rig.close()


def test_it_may_change_until_the_pod_is_known(make: Callable[..., Any]) -> None:  # noqa: F811
    """A CNI plugin may set it after the interface is there."""
    node: Node = make()
    space = both(node.rig, "shop/new", 2)
    node.publish("shop/new", ips=())
    until(lambda: node.carries(space))
    ip(space, "link set eth0 address 02:00:00:00:00:42")
    own = bytes.fromhex("020000000042")
    until(lambda: node.rig.own_frame(space.index, bytes(14))[6:12] == own)
    assert all(node.reaches(space, node.rig.node, family) for family in FAMILIES)
    node.publish("shop/new")
    until(lambda: space.index in node.agent.binding.bound)
    ip(space, "link set eth0 address 02:00:00:00:00:43")
    node.agent.links_changed()
    before = node.rig.maps.counters()[Counter.FOREIGN_FRAME]
    with open_socket(space, 4, socket.SOCK_DGRAM) as sender:
        until(lambda: bool(sender.sendto(b"x", ("192.0.2.1", 9)))
              and node.rig.maps.counters()[Counter.FOREIGN_FRAME] > before)  # fmt: skip
    assert node.rig.own_frame(space.index, bytes(14))[6:12] == own


def test_what_is_gone_is_forgotten(rig: Rig) -> None:
    first, second = both(rig, "a/first", 1), both(rig, "a/second", 2)
    rig.apply()
    key = first.index.to_bytes(4, "little")
    rig.net.remove(rig.pods.pop("a/first"))
    rig.objects.pop("a/first")
    until(lambda: first.link not in {device.name for device in rig.network.devices()})
    rig.attachments.forget(first.index)
    assert rig.maps["link_addresses"].get(key) is None
    rig.maps["link_addresses"].set(key, bytes(24))  # as the last probe has left it
    rig.attachments.attach_exits(rig.network.devices(), {second.index})
    assert rig.maps["link_addresses"].items().keys() == {second.index.to_bytes(4, "little")}
