"""Frames that were captured: which flow they belong to, and which are the same packet at another interface."""

from __future__ import annotations

import struct

from tests.custody.packets import ECHO, FIRST, ICMP, ICMPV6, LATER, TCP, UDP, WHOLE, Packet, Tuple, read_frame
from tests.kernel.frames import extension, icmp, ipv4, ipv6, sctp, tcp, udp


def read(packet: bytes) -> Packet | None:
    """Read a packet in a frame."""
    kind = {4: 0x0800, 6: 0x86DD}[packet[0] >> 4]
    return read_frame(bytes(12) + struct.pack("!H", kind) + packet, 5, "pod", is_sent=True)


def test_a_packet_is_the_same_before_and_after_dnat_and_no_other_one_is() -> None:
    for protocol in (TCP, UDP):
        dialled, inside = (
            read(ipv4("10.0.0.1", address, protocol, tcp(port, 2) if protocol == TCP else udp(port, data=b"data")))
            for address, port in (("10.96.0.1", 80), ("10.0.0.2", 8001))
        )
        assert dialled
        assert inside
        assert dialled.mark == inside.mark
        assert dialled.flow == Tuple(protocol, "10.0.0.1", 4000, "10.96.0.1", 80)
    other = read(ipv4("10.0.0.1", "10.0.0.2", UDP, udp(8001, data=b"else")))
    assert other
    assert inside
    assert other.mark != inside.mark


def test_an_echo_reply_belongs_to_the_request_and_an_error_to_nothing() -> None:
    rest = struct.pack("!HH", 77, 1)
    for protocol, make, ends in ((ICMP, ipv4, ("10.0.0.1", "10.0.0.2")), (ICMPV6, ipv6, ("fd44::1", "fd44::2"))):
        request = read(make(*ends, protocol, icmp(ECHO[protocol][0], rest=rest)))
        reply = read(make(*ends[::-1], protocol, icmp(ECHO[protocol][1], rest=rest)))
        error = read(make(*ends, protocol, icmp(3 if protocol == ICMP else 1, 4)))
        assert request
        assert reply
        assert error
        assert request.flow == reply.flow == Tuple(protocol, ends[0], 77, ends[1], ECHO[protocol][0] << 8)
        assert (request.is_reply, reply.is_reply, error.flow.is_error) == (False, True, True)


def test_fragments_are_told_apart() -> None:
    first = read(ipv4("10.0.0.1", "10.0.0.2", UDP, udp(9001), fragment=0x2000))
    later = read(ipv4("10.0.0.1", "10.0.0.2", UDP, b"more data", fragment=100))
    assert first
    assert later
    assert (first.fragment, later.fragment) == (FIRST, LATER)
    head = struct.pack("!BBHI", UDP, 0, 1, 7)
    six = read(ipv6("fd44::1", "fd44::2", 44, head + udp(9001)))
    assert six
    assert (six.fragment, six.flow.destination_port) == (FIRST, 9001)
    whole = read(ipv6("fd44::1", "fd44::2", 132, sctp(7001)))
    assert whole
    assert whole.fragment == WHOLE


def test_what_no_policy_is_about_is_left_out() -> None:
    assert read(ipv4("10.0.0.1", "224.0.0.1", UDP, udp(1))) is None
    assert read(ipv6("fe80::1", "fd44::2", ICMPV6, icmp(135))) is None
    assert read(ipv6("fe80::1", "ff02::16", 0, extension(ICMPV6) + icmp(143))) is None
    assert read_frame(bytes(12) + b"\x08\x06" + bytes(28), 5, "pod", is_sent=False) is None
