"""ICMP errors pass if they are about a connection that policy allows now, and only then: real packets at real pods."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator

import pytest
from netns import listen, open_socket

from tests.kernel.ear import Ear, new_mark
from tests.kernel.errors import ROUTER, TOO_BIG, UNREACHABLE, WORLD, Site, call, packet, quote
from tests.kernel.frames import Wire, icmp, ipv4, ipv6, tcp, udp
from tests.kernel.rig import FAMILIES, Rig, of

pytestmark = pytest.mark.kernel


@pytest.fixture
def site(rig: Rig) -> Iterator[Site]:
    made = Site(rig)
    yield made
    made.close()


def is_denied(site: Site, family: int, quoted: bytes) -> bool:
    """Whether an error about this is denied, with a verdict that says so."""
    site.rig.windows.rotate()
    site.rig.windows.rotate()
    site.rig.drain()
    site.error(family, quoted)
    # The node's own packets always pass: what comes after the error has arrived.
    mark = new_mark()
    with open_socket(site.rig.node, family, socket.SOCK_DGRAM) as node:
        node.sendto(mark, (site.client.address(family), 5000))
    site.ear.heard([], mark)
    rows = of(site.rig.seen(), subject="a/client", direction="ingress", verdict="deny")
    return [(row.source, row.reason) for row in rows] == [(ROUTER[family == 6], "default_deny")]


@pytest.mark.parametrize("family", FAMILIES)
def test_an_error_follows_the_policy_of_now(site: Site, family: int) -> None:
    site.allow(53)
    quoted = call(site, family)
    assert site.hears(family, [quoted], quoted) == [True]
    site.change()
    assert site.hears(family, [quoted], quoted) == [True]
    site.allow(80)
    assert is_denied(site, family, quoted)
    site.allow(53)
    assert site.hears(family, [quoted], quoted) == [True]
    assert not of(site.rig.seen(), verdict="deny")


@pytest.mark.parametrize("family", FAMILIES)
def test_an_error_about_an_old_connection_is_none(site: Site, family: int) -> None:
    site.allow(53)
    quoted = call(site, family)
    site.rig.edit_flows_of("a/client", lambda entry: entry["last_ns"].fill(1))
    assert is_denied(site, family, quoted)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_quoted_must_be_the_connection(site: Site, family: int) -> None:
    site.allow(53)
    quoted = call(site, family)
    own, world = site.client.address(family), WORLD[family == 6]
    echo = icmp(128 if family == 6 else 8, 0, bytes(4))
    error = icmp(*UNREACHABLE[family], data=quoted)
    nothing = [
        quote(site, family, udp(54, 4000)),
        quote(site, family, udp(53, 4001)),
        packet(family, own, ROUTER[family == 6], 17, udp(53, 4000)),
        packet(family, world, own, 17, udp(4000, 53)),
        packet(family, "fd44::2" if family == 6 else "10.244.0.2", world, 17, udp(53, 4000)),
        quote(site, family, tcp(53, 16, 4000), 6),
        quote(site, family, echo, 58 if family == 6 else 1),
        quote(site, family, error, 58 if family == 6 else 1),
        quoted[:20],
        b"",
    ]
    assert site.hears(family, [quoted, *nothing], quoted) == [True, *[False] * len(nothing)]


@pytest.mark.parametrize("family", FAMILIES)
def test_of_icmp_only_errors_are_about_a_connection(site: Site, family: int) -> None:
    site.allow(53)
    quoted = call(site, family)
    others = (
        [(5, 1), (4, 0), (8, 0), (0, 0), (13, 0), (9, 0)] if family == 4 else [(5, 0), (100, 0), (129, 0), (139, 0)]
    )
    for kind in others:
        assert site.hears(family, [quoted], quoted, kind=kind) == [False]
    for kind in [(3, 0), (3, 4), (11, 0), (12, 0)] if family == 4 else [(1, 0), (2, 0), (3, 0), (4, 1)]:
        assert site.hears(family, [quoted], quoted, kind=kind) == [True]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_quoted_number_must_be_near_what_was_sent(site: Site, family: int) -> None:
    site.allow(80)
    ear = Ear(site.world)
    with listen(site.world, family, 80), open_socket(site.client, family, socket.SOCK_STREAM) as here:
        here.connect((WORLD[family == 6], 80))
        port, at = here.getsockname()[1], 54 if family == 6 else 34
        syn = ear.frames_until(lambda frame: frame[at : at + 2] == struct.pack("!H", port))[-1]
        ear.close()
        (first,) = struct.unpack_from("!I", syn, at + 4)

        def about(distance: int) -> bytes:
            return quote(site, family, tcp(80, 16, port, (first + distance) % (1 << 32)), 6)

        for _ in range(2):
            distances = [0, 1, 1 << 20, 1 << 28, 1 << 31, -(1 << 28)]
            assert site.hears(family, [about(one) for one in distances], about(1)) == [True] * 3 + [False] * 3
            site.change()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_pod_says_that_a_port_is_closed_and_no_more_after_a_revocation(site: Site, family: int) -> None:
    """The kernel of a pod that may send nothing answers what its ingress allows."""
    rig, own, world = site.rig, site.client.address(family), WORLD[family == 6]
    sender, ear = Wire(site.client, rig.node), Ear(site.world)

    def ingress(*ports: int) -> None:
        rules = [{"ports": [{"port": port, "protocol": "UDP"} for port in ports]}]
        rig.policy("a/client", podSelector={"matchLabels": {"app": "client"}}, policyTypes=["Ingress", "Egress"],
                   ingress=rules)  # fmt: skip
        rig.apply()

    def errors(*quoted: bytes) -> list[bytes]:
        marks = [new_mark() for _ in quoted]
        for mark, one in zip(marks, quoted, strict=True):
            body = icmp(*UNREACHABLE[family], data=one + mark)
            sender.send(packet(family, own, world, 58 if family == 6 else 1, body))
        return marks

    ingress(9, 10)
    for stale in (False, True):
        if stale:
            site.change()
        with open_socket(site.world, family, socket.SOCK_DGRAM) as there:
            there.connect((own, 9))
            there.send(b"?")
            with pytest.raises(ConnectionRefusedError):
                there.recv(10)
    for port in (9, 10):
        with open_socket(site.world, family, socket.SOCK_DGRAM) as there:
            there.bind((world, 4000 + port))
            there.sendto(b"?", (own, port))
    about = [packet(family, world, own, 17, udp(port, 4000 + port)) for port in (9, 10)]
    both_ways = errors(*about, about[0])
    assert ear.heard(both_ways, both_ways[-1]) == both_ways
    ingress(10)
    marks = errors(about[0], about[1], packet(family, world, own, 17, udp(11, 4011)), about[1])
    assert ear.heard(marks, marks[-1]) == [marks[1], marks[3]]
    sender.close()
    ear.close()


@pytest.mark.parametrize("family", FAMILIES)
def test_an_error_in_fragments_passes_and_no_more_after_a_revocation(site: Site, family: int) -> None:
    site.allow(53, 80)
    quoted, good = call(site, family), call(site, family, 80, 4001)
    own, router = site.client.address(family), ROUTER[family == 6]

    def send(number: int, *parts: int) -> tuple[bytes, bytes]:
        whole = icmp(*TOO_BIG[family], struct.pack("!HH", 0, 1400), quoted + bytes(1200 - len(quoted) - 8))
        pieces = whole[:1000], whole[1000:]
        marks = new_mark(), new_mark()
        for part in parts:
            body, offset, more = pieces[part] + marks[part], part * 1008, not part
            if family == 4:
                site.wire.send(ipv4(router, own, 1, body, fragment=more << 13 | offset // 8, number=number))
            else:
                site.wire.send(ipv6(router, own, 44, struct.pack("!BBHI", 58, 0, offset | more, number) + body))
        return marks

    def heard(marks: tuple[bytes, bytes]) -> list[bool]:
        found = site.ear.heard(list(marks), site.error(family, good))
        return [mark in found for mark in marks]

    assert heard(send(77, 0, 1)) == [True, True]
    site.change()
    assert heard(send(77, 1)) == [False, True]
    assert heard(send(78, 0, 1)) == [True, True]
    site.allow(80)
    assert heard(send(78, 1)) == [False, False]
    assert heard(send(79, 0, 1)) == [False, False]


def test_the_router_of_the_test_is_not_let_in_by_policy(site: Site) -> None:
    """Else the errors that pass here would pass without a reason."""
    site.allow(53)
    for family in FAMILIES:
        assert is_denied(site, family, quote(site, family, udp(1, 1)))
