"""Sockets for the wire mode, by address family; and SCTP by hand, for which a kernel need not have sockets."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import Iterator
from typing import Final

_RECEIVED_ERROR: Final = {socket.AF_INET: (socket.IPPROTO_IP, 11), socket.AF_INET6: (socket.IPPROTO_IPV6, 25)}
"""IP_RECVERR and IPV6_RECVERR, option and kind of ancillary data (ip(7), ipv6(7))."""
_SO_RCVBUFFORCE: Final = 33
_RECEIVE_BYTES: Final = 8 << 20
"""What waits while everything else is being sent; a small packet takes about 800 bytes."""
_SYN, _ACK = 0x02, 0x10
INIT, INIT_ACK = 1, 2


def bound(
    address: str, port: int, kind: socket.SocketKind, protocol: int = 0, *, told_errors: bool = False
) -> socket.socket:
    """A socket in the namespace of the thread, which does not block.

    ``told_errors``: of every ICMP error, also those that the sender of a datagram mostly does not see.
    """
    made = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, kind, protocol)
    made.settimeout(0)
    if kind is not socket.SOCK_STREAM:
        made.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BYTES)
    if told_errors:
        made.setsockopt(*_RECEIVED_ERROR[made.family], 1)
    made.bind((address, port))
    return made


def listening(address: str, port: int) -> socket.socket:
    """A TCP server."""
    made = bound(address, port, socket.SOCK_STREAM)
    made.listen(4096)
    return made


def sniffing(address: str) -> socket.socket:
    """Sees every TCP segment that reaches the address; :func:`opened` reads it."""
    return bound(address, 0, socket.SOCK_RAW, socket.IPPROTO_TCP)


def sctp(address: str) -> socket.socket:
    """Sends and receives SCTP packets, all ports of an address; :func:`chunks` and :func:`errors` read it."""
    return bound(address, 0, socket.SOCK_RAW, socket.IPPROTO_SCTP, told_errors=True)


def accepted(server: socket.socket) -> Iterator[socket.socket]:
    """The connections that wait."""
    with contextlib.suppress(BlockingIOError):
        while True:
            yield server.accept()[0]


def datagrams(end: socket.socket) -> Iterator[tuple[bytes, tuple[str, int]]]:
    """What waits in a socket, with the sender's address and port."""
    while True:
        try:
            data, sender = end.recvfrom(2048)
        except BlockingIOError:
            return
        except OSError:  # an ICMP error about what was sent, of which :func:`errors` tells
            continue
        yield data, (sender[0], sender[1])


def send(end: socket.socket, data: bytes, address: tuple[str, int]) -> None:
    """Send an answer. One that cannot be sent is one that does not come."""
    with contextlib.suppress(OSError):
        end.sendto(data, address)


def opened(sniffer: socket.socket) -> Iterator[tuple[str, int, int]]:
    """Address and port of those who sent a SYN, and the port that it was for."""
    for packet, (address, _) in datagrams(sniffer):
        segment = _without_header(sniffer, packet)
        if len(segment) >= 14 and segment[13] & (_SYN | _ACK) == _SYN:
            yield (address, *ports_of(segment))


def send_chunk(end: socket.socket, chunk: int, own_port: int, address: str, port: int) -> None:
    """An INIT or INIT ACK (RFC 9260, section 3.3.2). Nobody on the way looks at the checksum, which is left out."""
    body = struct.pack("!BBHIIHHI", chunk, 0, 20, 1, 1 << 16, 1, 1, 1)
    send(end, struct.pack("!HHII", own_port, port, 0 if chunk == INIT else 1, 0) + body, (address, 0))


def chunks(end: socket.socket) -> Iterator[tuple[int, str, int, int]]:
    """Type of each packet's first chunk, the sender's address and port, and the port that it was for."""
    for packet, (address, _) in datagrams(end):
        body = _without_header(end, packet)
        if len(body) > 12:
            yield (body[12], address, *ports_of(body))


def errors(end: socket.socket) -> Iterator[tuple[bytes, str, str]]:
    """ICMP errors about what was sent: the packet without its IP header, where it went, the error in words."""
    while True:
        try:
            data, ancillary, _, where = end.recvmsg(2048, 512, socket.MSG_ERRQUEUE)
        except OSError:
            return
        for level, kind, value in ancillary:
            if (level, kind) == _RECEIVED_ERROR[end.family]:
                # struct sock_extended_err begins with the error's number.
                yield data, where[0], os.strerror(struct.unpack_from("=I", value)[0])


def ports_of(packet: bytes) -> tuple[int, int]:
    """Source and destination port, which are first in every transport header."""
    source, destination = struct.unpack_from("!HH", packet)
    return source, destination


def abort(ended: socket.socket) -> None:
    """Close at once; a connection is reset, so that it does not linger."""
    with contextlib.suppress(OSError):
        ended.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    ended.close()


def _without_header(end: socket.socket, packet: bytes) -> bytes:
    """A raw IPv4 socket gives the IP header too (raw(7)), an IPv6 one does not."""
    return packet if end.family == socket.AF_INET6 else packet[(packet[0] & 15) * 4 :]
