"""ARP and neighbour discovery pass without a verdict: they carry nothing else, and a pod speaks for itself only."""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Iterator
from contextlib import closing

import pytest
from netns import connects, listen, run, run_in

from probe.kernel import bpf
from probe.kernel.layout import Config, Counter
from tests.kernel.asked import SHOT
from tests.kernel.frames import Wire, extension, ipv6
from tests.kernel.rig import FAMILIES, Rig, both

pytestmark = pytest.mark.kernel

OWN_4, OTHER_4, OWN_6, OTHER_6 = "10.244.0.1", "10.244.0.2", "fd44::1", "fd44::2"
SOLICITATION, ADVERTISEMENT = 135, 136
ETHERNET_ARP = 0x0806


@pytest.fixture
def wire(rig: Rig) -> Iterator[Wire]:
    client, _ = both(rig, "a/client", 1), both(rig, "a/server", 2)
    rig.apply()
    made = Wire(client, rig.node)
    yield made
    made.close()


def arp(sender: str, *, hardware: int = 1, operation: int = 2) -> bytes:
    """RFC 826: a reply that says where ``sender`` is."""
    head = struct.pack("!HHBBH", hardware, 0x0800, 6, 4, operation)
    return head + bytes(6) + ipaddress.IPv4Address(sender).packed + bytes(6) + ipaddress.IPv4Address(OTHER_4).packed


def discovery(kind: int, target: str, source: str = OWN_6, options: bytes = b"\x02\x01" + bytes(6)) -> bytes:
    """RFC 4861 sections 4.3 and 4.4."""
    body = bytes([kind, 0, 0, 0]) + bytes(4) + ipaddress.IPv6Address(target).packed + options
    return ipv6(source, "ff02::1", 58, body, hops=255)


def dropped(rig: Rig, wire: Wire, packet: bytes, kind: int | None = None) -> bool:
    before = rig.maps.counters()[Counter.NEIGHBOUR_DROPPED]
    wire.send(packet, kind=kind)
    return rig.maps.counters()[Counter.NEIGHBOUR_DROPPED] == before + 1


def test_a_pod_says_by_arp_where_its_own_address_is_and_no_more(rig: Rig, wire: Wire) -> None:
    for proper in (
        arp(OWN_4),
        arp(OWN_4) + bytes(18),
        arp(str(ipaddress.IPv4Address(0)), operation=1),
        arp(OWN_4, operation=1),
    ):
        assert not dropped(rig, wire, proper, ETHERNET_ARP)
    for other in (arp(OTHER_4), arp("10.244.0.254"), arp(OWN_4) + bytes(1200), arp(OWN_4, hardware=6), arp(OWN_4)[:-1]):
        assert dropped(rig, wire, other, ETHERNET_ARP)
    assert rig.seen() == []


def own_link_local(rig: Rig, name: str = "a/client") -> str:
    """Return the link-local address that a pod's kernel has made of its link-layer address."""
    lines = run(rig.pods[name], "ip", "-6", "addr", "show", "dev", "eth0", "scope", "link")
    return next(line.split()[1].partition("/")[0] for line in lines.splitlines() if "inet6" in line)


def test_a_pod_advertises_its_own_addresses_and_no_more(rig: Rig, wire: Wire) -> None:
    own = own_link_local(rig)
    for proper in (
        discovery(ADVERTISEMENT, OWN_6),
        discovery(ADVERTISEMENT, own, own),
        discovery(SOLICITATION, own, "::", b""),
        discovery(SOLICITATION, OTHER_6, own),
        discovery(SOLICITATION, OTHER_6),
        discovery(SOLICITATION, OWN_6, "::", b""),
        discovery(SOLICITATION, OTHER_6, options=b"\x01\x01" + bytes(6) + b"\x0e\x01" + bytes(6)),
    ):
        assert not dropped(rig, wire, proper)
    assert rig.seen() == []
    for other in (
        discovery(ADVERTISEMENT, OTHER_6),
        discovery(ADVERTISEMENT, OTHER_6, own),
        # A gateway may have a link-local address.
        discovery(ADVERTISEMENT, "fe80::1"),
        discovery(ADVERTISEMENT, own_link_local(rig, "a/server")),
        discovery(ADVERTISEMENT, "fe80::1", "fe80::1"),
        discovery(SOLICITATION, "fe80::1", "::", b""),
        discovery(SOLICITATION, OTHER_6, "fe80::1"),
        discovery(SOLICITATION, OTHER_6, "::", b""),
        discovery(SOLICITATION, OTHER_6, options=b"\x0e\x96" + bytes(1198)),
        discovery(SOLICITATION, OTHER_6) + bytes(1200),
    ):
        assert dropped(rig, wire, other)
    assert {(row.subject, row.verdict, row.reason) for row in rig.seen()} == {("a/client", "deny", "forbidden_nd")}


def test_where_any_frame_may_pass_so_may_any_link_local_address(rig: Rig, wire: Wire) -> None:
    rig.maps.configure(Config.ANY_FRAME, 1)
    for proper in (discovery(ADVERTISEMENT, "fe80::7", "fe80::7"), discovery(SOLICITATION, OTHER_6, "fe80::7")):
        assert not dropped(rig, wire, proper)
    assert dropped(rig, wire, discovery(ADVERTISEMENT, OTHER_6, "fe80::7"))


def test_a_pod_that_is_not_known_yet_does_not_speak_for_others(rig: Rig, wire: Wire) -> None:
    """Neither for the node nor for other pods; for its own addresses, which are not known, it must."""
    late = rig.connect(rig.node, "10.244.0.9", "fd44::9")
    rig.attachments.attach(late.index)
    with closing(Wire(late, rig.node)) as unknown:
        for proper in (arp("10.244.0.9"), arp("10.244.0.9", operation=1)):
            assert not dropped(rig, unknown, proper, ETHERNET_ARP)
        assert not dropped(rig, unknown, discovery(ADVERTISEMENT, "fd44::9", "fd44::9"))
        for other in (arp(OWN_4), arp("192.0.2.1"), arp("169.254.1.1")):
            assert dropped(rig, unknown, other, ETHERNET_ARP)
        for target in (OWN_6, "2001:db8:1::1", "fe80::1"):
            assert dropped(rig, unknown, discovery(ADVERTISEMENT, target, "fd44::9"))
    rig.net.remove(late)


def test_listener_reports_are_on_a_few_groups(rig: Rig, wire: Wire) -> None:
    """RFC 3810: a record of 20 bytes a group."""
    for groups, expected in ((3, False), (60, True)):
        body = struct.pack("!BBHHH", 143, 0, 0, 0, groups) + bytes(20 * groups)
        packet = ipv6(own_link_local(rig), "ff02::16", 0, extension(58) + body, hops=1)
        assert dropped(rig, wire, packet) is expected


@pytest.mark.one_mode
def test_nothing_long_reaches_a_pod_either(rig: Rig, wire: Wire) -> None:
    pod, program = rig.pods["a/client"], rig.maps.programs["pod_ingress"]
    context = struct.pack("=36xII148x", 1, pod.index)
    head_4, head_6 = bytes(12) + b"\x08\x06", bytes(12) + b"\x86\xdd"
    announced = discovery(ADVERTISEMENT, OTHER_6, OTHER_6)
    for frame, passes in (
        (head_4 + arp(OTHER_4), True),
        (head_4 + arp(OTHER_4) + bytes(1200), False),
        (head_6 + announced, True),
        (head_6 + announced + bytes(1200), False),
    ):
        answer, _ = run_in(rig.node, lambda f=frame: bpf.program_run(program, f, 1, context))  # type: ignore[misc]
        assert (answer != SHOT) is passes


@pytest.mark.parametrize("family", FAMILIES)
def test_addresses_are_resolved_from_nothing(rig: Rig, wire: Wire, family: int) -> None:
    client, server = rig.pods["a/client"], rig.pods["a/server"]
    for space in (client, server, rig.node):
        run(space, "ip", "neigh", "flush", "all")
    with listen(server, family, 8080):
        assert connects(client, server.address(family), 8080)
