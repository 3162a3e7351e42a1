"""Sockets for the wire mode. SCTP packets are made by hand, because a kernel may lack SCTP sockets."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import Iterator
from typing import Final

_RECEIVED_ERROR: Final = {socket.AF_INET: (socket.IPPROTO_IP, 11), socket.AF_INET6: (socket.IPPROTO_IPV6, 25)}
"""IP_RECVERR and IPV6_RECVERR, which are a socket option and a kind of ancillary data (ip(7), ipv6(7))."""
_SO_RCVBUFFORCE: Final = 33
_RECEIVE_BYTES: Final = 8 << 20
"""Buffer for packets that arrive while all others are being sent; a small packet takes about 800 bytes."""
_SYN, _ACK = 0x02, 0x10
INIT, INIT_ACK = 1, 2


def bound(
    address: str, port: int, kind: socket.SocketKind, protocol: int = 0, *, icmp_errors: bool = False
) -> socket.socket:
    """Return a non-blocking socket in the thread's namespace.

    With ``icmp_errors``, :func:`errors` returns every ICMP error, also those that a datagram's sender usually does not
    get.
    """
    end = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, kind, protocol)
    end.settimeout(0)
    if kind is not socket.SOCK_STREAM:
        end.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BYTES)
    if icmp_errors:
        end.setsockopt(*_RECEIVED_ERROR[end.family], 1)
    end.bind((address, port))
    return end


def listening(address: str, port: int) -> socket.socket:
    """Return a listening TCP socket."""
    server = bound(address, port, socket.SOCK_STREAM)
    server.listen(4096)
    return server


def sniffing(address: str) -> socket.socket:
    """Return a socket that receives every TCP segment to the address; :func:`opened` reads it."""
    return bound(address, 0, socket.SOCK_RAW, socket.IPPROTO_TCP)


def sctp(address: str) -> socket.socket:
    """Return a socket for SCTP packets of all ports of an address; :func:`chunks` and :func:`errors` read it."""
    return bound(address, 0, socket.SOCK_RAW, socket.IPPROTO_SCTP, icmp_errors=True)


def accepted(server: socket.socket) -> Iterator[socket.socket]:
    """Accept all waiting connections."""
    with contextlib.suppress(BlockingIOError):
        while True:
            yield server.accept()[0]


def datagrams(end: socket.socket) -> Iterator[tuple[bytes, tuple[str, int]]]:
    """Read all waiting datagrams, with the sender's address and port."""
    while True:
        try:
            data, sender = end.recvfrom(2048)
        except BlockingIOError:
            return
        except OSError:  # an ICMP error about a packet that was sent; errors() reads it from its own queue
            continue
        yield data, (sender[0], sender[1])


def send(end: socket.socket, data: bytes, address: tuple[str, int]) -> None:
    """Send a packet. An error is ignored: the other side sees that nothing arrives."""
    with contextlib.suppress(OSError):
        end.sendto(data, address)


def opened(sniffer: socket.socket) -> Iterator[tuple[str, int, int]]:
    """Read all waiting SYN segments: the sender's address and port, and the destination port."""
    for packet, (address, _) in datagrams(sniffer):
        segment = _without_header(sniffer, packet)
        if len(segment) >= 14 and segment[13] & (_SYN | _ACK) == _SYN:
            yield (address, *ports_of(segment))


def send_chunk(end: socket.socket, chunk: int, own_port: int, address: str, port: int) -> None:
    """Send an INIT or INIT ACK (RFC 9260, section 3.3.2). The checksum is left out, because nothing here checks it."""
    body = struct.pack("!BBHIIHHI", chunk, 0, 20, 1, 1 << 16, 1, 1, 1)
    send(end, struct.pack("!HHII", own_port, port, 0 if chunk == INIT else 1, 0) + body, (address, 0))


def chunks(end: socket.socket) -> Iterator[tuple[int, str, int, int]]:
    """Read all waiting SCTP packets: the first chunk's type, the sender's address and port, the destination port."""
    for packet, (address, _) in datagrams(end):
        body = _without_header(end, packet)
        if len(body) > 12:
            yield (body[12], address, *ports_of(body))


def errors(end: socket.socket) -> Iterator[tuple[bytes, str, str]]:
    """Read all waiting ICMP errors: the packet that was sent (without IP header), its destination, the error text."""
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
    """Return source and destination port, with which every transport header begins."""
    source, destination = struct.unpack_from("!HH", packet)
    return source, destination


def abort(ended: socket.socket) -> None:
    """Close a socket. A connection is reset, so that the kernel does not keep it in TIME_WAIT."""
    with contextlib.suppress(OSError):
        ended.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    ended.close()


def _without_header(end: socket.socket, packet: bytes) -> bytes:
    """Return a packet without IP header, which raw IPv4 sockets return too (raw(7)) and IPv6 ones do not."""
    return packet if end.family == socket.AF_INET6 else packet[(packet[0] & 15) * 4 :]
