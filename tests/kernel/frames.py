"""Frames made by hand, which no socket sends: options, extension headers, tags, wrong lengths."""

from __future__ import annotations

import fcntl
import ipaddress
import socket
import struct

from netns import Space, checksum, run_in

_SIOCGIFHWADDR = 0x8927


class Wire:
    """A packet socket that sends frames out of a pod's interface, or another namespace's."""

    def __init__(self, pod: Space, node: Space, gateway: str = "", device: str = "eth0") -> None:
        self.own = mac_of(pod, device)
        """The source of its frames."""
        self._gateway = mac_of(node, gateway or pod.link)
        self._socket = run_in(pod, lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW))
        self._socket.bind((device, 0))

    def send(self, packet: bytes, kind: int | None = None, tags: bytes = b"", to: bytes = b"") -> None:
        """Send an IP packet, by default to the gateway.

        ``kind`` is the EtherType, by default that of its version; ``tags`` precede it."""
        kind = kind if kind is not None else {4: 0x0800, 6: 0x86DD}[packet[0] >> 4]
        self._socket.send((to or self._gateway) + self.own + tags + struct.pack("!H", kind) + packet)

    def close(self) -> None:
        self._socket.close()


def udp(port: int, source_port: int = 4000, data: bytes = b"x") -> bytes:
    """Return a datagram without a checksum, which IPv4 allows. For IPv6 only the verdict matters."""
    return struct.pack("!HHHH", source_port, port, 8 + len(data), 0) + data


def tcp(port: int, flags: int, source_port: int = 4000, sequence: int = 1) -> bytes:
    """Return a TCP header without data and checksum. Only what a program sees of it matters."""
    return struct.pack("!HHIIBBHHH", source_port, port, sequence, 1, 5 << 4, flags, 1000, 0, 0)


def icmp(kind: int, code: int = 0, rest: bytes = bytes(4), data: bytes = b"") -> bytes:
    """Return an ICMP message. ``rest`` is the second word of its header."""
    body = struct.pack("!BBH", kind, code, 0) + rest + data
    return body[:2] + struct.pack("!H", checksum(body)) + body[4:]


def sctp(port: int, source_port: int = 4000) -> bytes:
    """Return an SCTP common header and the head of an INIT chunk."""
    return struct.pack("!HHII", source_port, port, 0, 0) + bytes([1, 0, 0, 20])


def ipv4(
    source: str,
    destination: str,
    protocol: int,
    body: bytes,
    *,
    options: bytes = b"",
    fragment: int = 0,
    number: int = 1,
) -> bytes:
    """Return a packet. ``options`` are a multiple of 4 bytes; ``fragment`` is the field of flags and offset."""
    ends = ipaddress.IPv4Address(source).packed + ipaddress.IPv4Address(destination).packed
    length = 20 + len(options)
    head = struct.pack("!BBHHHBBH", 0x40 | length // 4, 0, length + len(body), number, fragment, 64, protocol, 0)
    head += ends + options
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + body


def ipv6(source: str, destination: str, following: int, body: bytes, hops: int = 64) -> bytes:
    """Return a packet. ``following`` is the next header's number, ``body`` everything behind the IPv6 header."""
    ends = ipaddress.IPv6Address(source).packed + ipaddress.IPv6Address(destination).packed
    return struct.pack("!IHBB", 6 << 28, len(body), following, hops) + ends + body


def segment(source: str, destination: str, flags: int, ports: tuple[int, int], data: bytes, sequence: int = 7) -> bytes:
    """Return a packet with a TCP segment. Its checksum is right, so that nf_conntrack takes it for a connection's."""
    family = socket.AF_INET6 if ":" in source else socket.AF_INET
    head = struct.pack("!HHIIBBHHH", *ports, sequence, 1, 5 << 4, flags, 1000, 0, 0)
    ends = socket.inet_pton(family, source) + socket.inet_pton(family, destination)
    body = head + data
    summed = checksum(ends + struct.pack("!II", len(body), 6) + body)
    body = body[:16] + struct.pack("!H", summed) + body[18:]
    return (ipv6 if ":" in source else ipv4)(source, destination, 6, body)


def extension(following: int, units: int = 0) -> bytes:
    """Return a hop-by-hop or destination options header of 8 * (units + 1) bytes: padding (RFC 8200 section 4.2)."""
    padding = 8 * (units + 1) - 4
    return bytes([following, units, 1, padding]) + bytes(padding)


def mac_of(space: Space, device: str = "eth0") -> bytes:
    """Return the link-layer address of a namespace's interface."""
    # /sys shows the devices of the namespace it was mounted in, so ask a socket.
    with run_in(space, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as asking:
        answer = fcntl.ioctl(asking, _SIOCGIFHWADDR, struct.pack("16s24x", device.encode()))
    return answer[18:24]
