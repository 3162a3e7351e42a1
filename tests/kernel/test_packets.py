"""What no socket sends: fragments, options, extension headers, tags, lies and rubbish, at real interfaces."""

from __future__ import annotations

import socket
import struct

import pytest
from netns import open_socket

from probe.kernel.layout import Config, Counter
from tests.kernel.frames import Wire, extension, ipv4, ipv6, sctp, udp
from tests.kernel.rig import FAMILIES, Rig, both, of

pytestmark = pytest.mark.kernel

CLIENT_4, SERVER_4, CLIENT_6, SERVER_6 = "10.244.0.1", "10.244.0.2", "fd44::1", "fd44::2"


@pytest.fixture
def wire(rig: Rig):  # type: ignore[no-untyped-def]  # a generator of Wire
    client = both(rig, "a/client", 1)
    both(rig, "a/server", 2)
    rig.policy(
        "a/in",
        podSelector={"matchLabels": {"app": "server"}},
        ingress=[{"ports": [{"port": 1000, "protocol": "UDP"}, {"port": 1000, "protocol": "SCTP"}]}],
    )
    rig.apply()
    made = Wire(client, rig.node)
    yield made
    made.close()


def _at_server(rig: Rig) -> list[tuple[str, str, int]]:
    return [(row.verdict, row.reason, row.port) for row in of(rig.seen(), subject="a/server")]


def test_ports_are_found_behind_ipv4_options(rig: Rig, wire: Wire) -> None:
    for port in (1000, 2000):
        wire.send(ipv4(CLIENT_4, SERVER_4, 17, udp(port), options=b"\x01" * 8))
    assert _at_server(rig) == [("allow", "policy", 1000), ("deny", "default_deny", 2000)]


def test_ports_are_found_behind_extension_headers(rig: Rig, wire: Wire) -> None:
    for port in (1000, 2000):
        wire.send(ipv6(CLIENT_6, SERVER_6, 60, extension(60, 2) + extension(17) + udp(port)))
    assert _at_server(rig) == [("allow", "policy", 1000), ("deny", "default_deny", 2000)]


def test_an_authentication_header_counts_in_units_of_four(rig: Rig, wire: Wire) -> None:
    # RFC 4302: the length is in 4 bytes, less 2.
    header = bytes([17, 4]) + bytes(22)
    wire.send(ipv6(CLIENT_6, SERVER_6, 51, header + udp(2000)))
    assert _at_server(rig) == [("deny", "default_deny", 2000)]


def test_sctp_is_judged_by_its_port(rig: Rig, wire: Wire) -> None:
    for port in (1000, 2000):
        wire.send(ipv4(CLIENT_4, SERVER_4, 132, sctp(port)))
        wire.send(ipv6(CLIENT_6, SERVER_6, 132, sctp(port)))
    allowed, denied = ("allow", "policy", 1000), ("deny", "default_deny", 2000)
    assert _at_server(rig) == [allowed, allowed, denied, denied]


def test_another_protocol_is_judged_by_what_allows_everything(rig: Rig, wire: Wire) -> None:
    wire.send(ipv4(CLIENT_4, SERVER_4, 47, bytes(8)))
    assert [row[:2] for row in _at_server(rig)] == [("deny", "default_deny")]
    rig.policy("a/all", podSelector={}, ingress=[{}])
    rig.apply()
    wire.send(ipv4(CLIENT_4, SERVER_4, 47, bytes(8)))
    assert [row[:2] for row in _at_server(rig)] == [("allow", "policy")]


@pytest.mark.parametrize("tags", [struct.pack("!HH", 0x8100, 7), struct.pack("!HHHH", 0x88A8, 3, 0x8100, 7)])
def test_a_tagged_frame_is_judged_too_where_any_may_pass(rig: Rig, wire: Wire, tags: bytes) -> None:
    rig.maps.configure(Config.ANY_FRAME, 1)
    rig.policy("a/out", podSelector={"matchLabels": {"app": "client"}}, policyTypes=["Egress"])
    rig.apply()
    wire.send(ipv4(CLIENT_4, SERVER_4, 17, udp(1000)), tags=tags)
    (row,) = rig.seen()
    assert (row.subject, row.verdict, row.port, row.policies) == ("a/client", "deny", 1000, ("a/out",))


@pytest.mark.parametrize("family", FAMILIES)
def test_fragments_follow_their_first(rig: Rig, wire: Wire, family: int) -> None:
    client, server = rig.pods["a/client"], rig.pods["a/server"]
    body = bytes(range(256)) * 40
    with open_socket(server, family, socket.SOCK_DGRAM) as good, open_socket(server, family, socket.SOCK_DGRAM) as bad:
        good.bind((server.address(family), 1000))
        bad.bind((server.address(family), 2000))
        bad.settimeout(0.3)
        with open_socket(client, family, socket.SOCK_DGRAM) as here:
            here.sendto(body, (server.address(family), 1000))
            here.sendto(body, (server.address(family), 2000))
        assert good.recv(20_000) == body
        with pytest.raises(TimeoutError):
            bad.recv(20_000)
    assert _at_server(rig) == [("allow", "policy", 1000), ("deny", "default_deny", 2000)]
    assert rig.maps.counters()[Counter.FRAGMENT_DROPPED] > 0


def test_a_later_fragment_without_its_first_is_dropped(rig: Rig, wire: Wire) -> None:
    wire.send(ipv4(CLIENT_4, SERVER_4, 17, bytes(64), fragment=0x2005, number=77))
    assert [row.reason for row in of(rig.seen(), verdict="deny")] == ["fragment"]


def test_a_source_that_is_not_the_pods_own_is_dropped(rig: Rig, wire: Wire) -> None:
    wire.send(ipv4("10.244.0.3", SERVER_4, 17, udp(1000)))
    wire.send(ipv6("fd44::3", SERVER_6, 17, udp(1000)))
    wire.send(ipv6("fe80::7", SERVER_6, 17, udp(1000)))
    assert [(row.subject, row.reason) for row in rig.seen()] == [("a/client", "spoofed")] * 3


def test_a_pod_that_plays_the_router_is_dropped(rig: Rig, wire: Wire) -> None:
    for kind in (134, 137):
        wire.send(ipv6("fe80::7", "ff02::1", 58, bytes([kind, 0, 0, 0]) + bytes(36), hops=255))
    assert [row.reason for row in rig.seen()] == ["forbidden_nd"] * 2


@pytest.mark.parametrize(
    "packet",
    [
        b"\x45" + bytes(10),
        ipv4(CLIENT_4, SERVER_4, 6, b"\x00\x50\x00\x50"),
        ipv6(CLIENT_6, SERVER_6, 60, extension(60) * 9 + udp(1000)),
        ipv6("::ffff:10.244.0.1", SERVER_6, 17, udp(1000)),
    ],
    ids=["a torn header", "a transport header that is not there", "too many extensions", "IPv4 in IPv6's clothes"],
)
def test_what_cannot_be_read_is_dropped_and_counted(rig: Rig, wire: Wire, packet: bytes) -> None:
    before = rig.maps.counters()[Counter.UNPARSABLE]
    wire.send(packet, kind=0x0800 if packet[0] >> 4 == 4 else 0x86DD)
    assert rig.maps.counters()[Counter.UNPARSABLE] == before + 1
    assert [(row.subject, row.reason) for row in rig.seen()] == [("a/client", "unparsable")]


def test_what_is_not_ip_is_dropped_and_counted(rig: Rig, wire: Wire) -> None:
    before = rig.maps.counters()[Counter.NOT_IP]
    wire.send(bytes(50), kind=0x88CC)
    assert rig.maps.counters()[Counter.NOT_IP] == before + 1
    assert rig.seen() == []
