"""What a captured frame says: the flow that it belongs to, and a mark by which the same packet is known elsewhere."""

from __future__ import annotations

import ipaddress
import struct
from functools import cache
from typing import Final, NamedTuple

TCP, UDP, ICMP, ICMPV6, SCTP = 6, 17, 1, 58, 132
ECHO: Final = {ICMP: (8, 0), ICMPV6: (128, 129)}
"""The types of echo requests and replies."""
WHOLE, FIRST, LATER = 0, 1, 2
"""Not a fragment; the first fragment of a datagram; one of the others."""
_ERRORS: Final = {ICMP: range(3, 13), ICMPV6: range(1, 5)}
_FRAGMENT, _ETHER_IPV4, _ETHER_IPV6 = 44, 0x0800, 0x86DD


class Tuple(NamedTuple):
    """Addresses and ports of a packet, source first. ICMP has the identifier of an echo, or type and code, as port."""

    protocol: int
    source: str
    source_port: int
    destination: str
    destination_port: int
    is_error: bool = False
    """Whether it is an ICMP error, which belongs to no flow of its own."""

    def reversed(self) -> Tuple:
        """Return the tuple of a reply."""
        return Tuple(self.protocol, self.destination, self.destination_port, self.source, self.source_port)


class Packet(NamedTuple):
    """One packet at one interface."""

    at: int
    """Nanoseconds of the wall clock, by the kernel."""
    place: str
    """Where it was captured."""
    is_sent: bool
    """Whether the host behind the interface has sent it."""
    flow: Tuple
    mark: int
    """Equal for the same packet at another interface, also if DNAT has changed it on the way."""
    fragment: int = WHOLE
    """A later fragment has no ports: those of ``flow`` are 0."""
    is_reply: bool = False
    """Whether it is an echo reply, whose flow is written as that of the request."""


@cache
def _text(address: bytes) -> str:
    return str(ipaddress.ip_address(address))


def read_frame(frame: bytes, at: int, place: str, *, is_sent: bool) -> Packet | None:
    """Read an Ethernet frame. None for what no policy is about: ARP, neighbour discovery, multicast."""
    kind = struct.unpack_from("!H", frame, 12)[0]
    if kind == _ETHER_IPV4:
        head = (frame[14] & 15) * 4
        field = struct.unpack_from("!H", frame, 20)[0]
        protocol, start, offset, more = frame[23], 14 + head, field & 0x1FFF, field & 0x2000
        source, destination = frame[26:30], frame[30:34]
    elif kind == _ETHER_IPV6:
        protocol, start, offset, more = frame[20], 54, 0, 0
        source, destination = frame[22:38], frame[38:54]
        if protocol == _FRAGMENT:
            protocol, _, field = struct.unpack_from("!BBH", frame, 54)
            start, offset, more = 62, field >> 3, field & 1
    else:
        return None
    ends = _text(source), _text(destination)
    if ipaddress.ip_address(ends[1]).is_multicast or protocol not in {TCP, UDP, SCTP, *ECHO}:
        return None
    if offset:
        return Packet(at, place, is_sent, Tuple(protocol, ends[0], 0, ends[1], 0), 0, LATER)
    packet = _read_transport(frame[start:], at, place, protocol, ends, is_sent=is_sent)
    return packet._replace(fragment=FIRST) if packet and more else packet


def _read_transport(
    body: bytes, at: int, place: str, protocol: int, ends: tuple[str, str], *, is_sent: bool
) -> Packet | None:
    if protocol in ECHO:
        request, reply = ECHO[protocol]
        if body[0] not in {request, reply}:
            if body[0] not in _ERRORS[protocol]:
                return None
            code = body[0] << 8 | body[1]
            return Packet(at, place, is_sent, Tuple(protocol, ends[0], 0, ends[1], code, is_error=True), 0)
        number = struct.unpack_from("!H", body, 4)[0]
        flow = Tuple(protocol, ends[0], number, ends[1], request << 8)
        if body[0] == reply:
            flow = Tuple(protocol, ends[1], number, ends[0], request << 8)
        return Packet(at, place, is_sent, flow, hash(body[4:200]), is_reply=body[0] == reply)
    ports = struct.unpack_from("!HH", body)
    # Without ports and checksum, which DNAT changes.
    same = {TCP: body[4:16] + body[18:200], UDP: body[4:6] + body[8:200], SCTP: body[4:8] + body[12:200]}[protocol]
    return Packet(at, place, is_sent, Tuple(protocol, ends[0], ports[0], ends[1], ports[1]), hash(same))
