"""Asks the node's nf_conntrack who opened a connection, and what NAT has made of it, by ctnetlink.

Message and attribute numbers are those of the kernel's linux/netfilter/nfnetlink_conntrack.h. The messages are built
here, as in :mod:`probe.node.netlink`: a busy pod has thousands of connections, and a general decoder costs much more
for each. CAP_NET_ADMIN is enough. The sockets are in the node's network namespace.

An entry has two tuples. Pod 10.244.1.7 has connected to the Service 10.96.0.10:80, and NAT chose the backend
10.244.2.9:8080::

    original  10.244.1.7:40000 -> 10.96.0.10:80       what the opener sends
    reply     10.244.2.9:8080  -> 10.244.1.7:40000    what the other end sends, before NAT is undone

The kernel finds the entry by either tuple. A masquerade shows in the reply's destination.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from enrich.wire.mapped_address import is_ipv4
from probe.node.netlink import NodeNetwork
from probe.node.netlink_messages import DUMP, NESTED, REQUEST, attribute, attributes, request

_NETLINK_NETFILTER: Final = 12
_GET, _GET_STATS = 1 << 8 | 1, 1 << 8 | 5
"""NFNL_SUBSYS_CTNETLINK << 8, and IPCTNL_MSG_CT_GET and IPCTNL_MSG_CT_GET_STATS."""
_TUPLE_ORIGINAL, _TUPLE_REPLY, _STATUS, _PROTOCOL_INFO, _ZONE, _FILTER = 1, 2, 3, 4, 18, 25
_TUPLE_IP, _TUPLE_PROTOCOL = 1, 2
_SOURCE = {False: 1, True: 3}
_DESTINATION = {False: 2, True: 4}
"""CTA_IP_V4_SRC and the others, by whether the address is IPv6."""
_FAMILY: Final = {False: socket.AF_INET, True: socket.AF_INET6}
_NUMBER, _SOURCE_PORT, _DESTINATION_PORT = 1, 2, 3
_FILTER_SOURCE: Final = 1
"""CTA_FILTER_FLAG_CTA_IP_SRC (kernel 5.8): only the source of the tuple is compared."""
_SEEN_REPLY: Final = 0x2
_TCP: Final = 6
_TCP_OVER: Final = (7, 8)
"""TCP_CONNTRACK_TIME_WAIT and TCP_CONNTRACK_CLOSE."""
_WITH_PORTS: Final = (6, 17, 132)
_MAPPED: Final = bytes(10) + b"\xff\xff"
_NO_CTNETLINK: Final = (errno.EINVAL, errno.EPROTONOSUPPORT)
_TIMEOUT_S: Final = 2.0
_TRACKING_S: Final = 1.0
_DECODED_IN_A_WALK: Final = 500
"""So many entries are decoded in the time that the kernel takes to walk its table (10 ms for 262,144 buckets)."""
_COUNT_FILE: Final = Path("/proc/sys/net/netfilter/nf_conntrack_count")


@dataclass(frozen=True, slots=True)
class Ends:
    """One tuple of an entry. Addresses are 16 bytes, as in the kernel's maps."""

    source: bytes
    source_port: int
    destination: bytes
    destination_port: int


@dataclass(frozen=True, slots=True)
class Tracked:
    """An entry of nf_conntrack."""

    protocol: int
    original: Ends
    reply: Ends
    answered: bool
    """Packets went both ways."""
    over: bool
    """A TCP connection that both ends have closed."""


class Conntrack:
    """The nf_conntrack of one node. It is used by one thread."""

    def __init__(self, network: NodeNetwork) -> None:
        self._network = network
        self._sequence = 0
        self._asking: socket.socket | None = None
        self._tracking: dict[bool, tuple[bool, float]] = {}
        """By family: whether it is tracked, and when that was found."""
        with contextlib.suppress(OSError):
            self._asking = self._open()

    def close(self) -> None:
        """Close the socket."""
        if self._asking is not None:
            self._asking.close()

    def find(self, protocol: int, ends: Ends) -> Tracked | None:
        """Return the entry that has ``ends`` as one of its tuples; None if there is none. Raises OSError."""
        six = not is_ipv4(ends.source)
        body = attribute(_TUPLE_ORIGINAL | NESTED, _tuple(protocol, ends, six=six))
        try:
            return next(self._ask(_GET, six=six, body=body), None)
        except OSError as error:
            if error.errno != errno.ENOENT and error.errno not in _NO_CTNETLINK:
                raise
            return None

    def of(self, addresses: Collection[bytes]) -> Iterator[Tracked]:
        """Yield the entries that one of the addresses opened or answers, each at least once. Raises OSError."""
        dumps: list[tuple[int, bytes]] = [(socket.AF_UNSPEC, b"")]
        # To ask for one address takes two walks.
        if self._entries() > _DECODED_IN_A_WALK * (2 * len(addresses) - 1):
            dumps = [_from(address, which) for address in addresses for which in (_TUPLE_ORIGINAL, _TUPLE_REPLY)]
        for family, body in dumps:
            for tracked in self._dump(family, body):
                if tracked.original.source in addresses or tracked.reply.source in addresses:
                    yield tracked

    def is_tracking(self, *, six: bool) -> bool:
        """Return whether the node tracks connections of a family. Raises OSError.

        nf_conntrack registers its hooks in a network namespace only when a rule needs them, separately for IPv4 and
        IPv6, and nothing tells whether it has. So a datagram is sent over the loopback interface: it has an entry if
        there are hooks. A namespace that has any entry counts as tracking too, since a rule may exempt the loopback.
        """
        now = time.monotonic()
        known = self._tracking.get(six)
        if known is None or now - known[1] > _TRACKING_S:
            known = self._tracking[six] = (self._entries() > 0 or self._tracks_loopback(six=six), now)
        return known[0]

    def _tracks_loopback(self, *, six: bool) -> bool:
        family, address = _FAMILY[six], "::1" if six else "127.0.0.1"
        packed = socket.inet_pton(family, address)
        with self._network.run(socket.socket, family, socket.SOCK_DGRAM) as one:
            one.bind((address, 0))
            port = one.getsockname()[1]
            one.sendto(b"", (address, port))
            mapped = packed if six else _MAPPED + packed
            return self.find(17, Ends(mapped, port, mapped, port)) is not None

    def _entries(self) -> int:
        """Return how many entries the namespace has. /proc tells it too, if the kernel has no ctnetlink."""
        try:
            for message in self._messages(self._asking_socket(), _GET_STATS, REQUEST, b"", socket.AF_INET):
                count = attributes(message).get(1)
                return int.from_bytes(count, "big") if count else 0
        except OSError as error:
            if error.errno not in _NO_CTNETLINK:
                raise
        return self._network.run(_entries_in_proc)

    def _ask(self, kind: int, *, six: bool, body: bytes) -> Iterator[Tracked]:
        for message in self._messages(self._asking_socket(), kind, REQUEST, body, _FAMILY[six]):
            tracked = _decoded(message)
            if tracked:
                yield tracked

    def _asking_socket(self) -> socket.socket:
        if self._asking is None:
            raise OSError(errno.EPROTONOSUPPORT, "this kernel has no netlink socket for netfilter")
        return self._asking

    def _dump(self, family: int, body: bytes) -> Iterator[Tracked]:
        """Yield all entries of a family, or of both, that the kernel's filter lets through. Its socket is its own."""
        try:
            with self._open() as dumping:
                for message in self._messages(dumping, _GET, DUMP, body, family):
                    tracked = _decoded(message)
                    if tracked:
                        yield tracked
        except OSError as error:
            if error.errno not in _NO_CTNETLINK:
                raise

    def _open(self) -> socket.socket:
        made: socket.socket = self._network.run(socket.socket, socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER)
        made.settimeout(_TIMEOUT_S)
        return made

    def _messages(self, asking: socket.socket, kind: int, flags: int, body: bytes, family: int) -> Iterator[bytes]:
        """Send a request and yield the attributes of each message of the answer. Raises OSError."""
        self._sequence += 1
        header = struct.pack("=BBH", family, 0, 0)
        try:
            for _, answer in request(asking, kind, flags, header + body, self._sequence):
                yield answer[4:]
        except OSError as error:
            if error.errno is None:
                raise
            raise OSError(error.errno, f"nf_conntrack: {error.strerror}") from error


def _entries_in_proc() -> int:
    """Return how many entries the calling thread's namespace has, by /proc; 0 if the kernel has no nf_conntrack."""
    try:
        return int(_COUNT_FILE.read_text())
    except FileNotFoundError:
        return 0


def _tuple(protocol: int, ends: Ends, *, six: bool) -> bytes:
    skipped = 0 if six else 12
    addresses = attribute(_SOURCE[six], ends.source[skipped:])
    addresses += attribute(_DESTINATION[six], ends.destination[skipped:])
    ports = attribute(_NUMBER, bytes([protocol]))
    ports += attribute(_SOURCE_PORT, ends.source_port.to_bytes(2, "big"))
    ports += attribute(_DESTINATION_PORT, ends.destination_port.to_bytes(2, "big"))
    return attribute(_TUPLE_IP | NESTED, addresses) + attribute(_TUPLE_PROTOCOL | NESTED, ports)


def _from(address: bytes, which: int) -> tuple[int, bytes]:
    """Return family and filter of a dump: of the entries whose original or reply tuple this address sends."""
    six = not is_ipv4(address)
    source = attribute(_SOURCE[six], address if six else address[12:])
    compared = attribute(which, struct.pack("=I", _FILTER_SOURCE))
    body = attribute(which | NESTED, attribute(_TUPLE_IP | NESTED, source)) + attribute(_FILTER | NESTED, compared)
    return _FAMILY[six], body


def _decoded(message: bytes) -> Tracked | None:
    """Return the entry in a message; None if it has no ports, or is in a zone, which the node's own packets are not."""
    found = attributes(message)
    if _ZONE in found or _TUPLE_ORIGINAL not in found or _TUPLE_REPLY not in found:
        return None
    protocol, original = _ends(found[_TUPLE_ORIGINAL])
    if protocol not in _WITH_PORTS:
        return None
    status = int.from_bytes(found.get(_STATUS, b""), "big")
    over = protocol == _TCP and _tcp_state(found.get(_PROTOCOL_INFO, b"")) in _TCP_OVER
    return Tracked(protocol, original, _ends(found[_TUPLE_REPLY])[1], bool(status & _SEEN_REPLY), over)


def _tcp_state(block: bytes) -> int:
    return int.from_bytes(attributes(attributes(block).get(1, b"")).get(1, b""), "big")


def _ends(block: bytes) -> tuple[int, Ends]:
    parts = attributes(block)
    addresses, ports = attributes(parts.get(_TUPLE_IP, b"")), attributes(parts.get(_TUPLE_PROTOCOL, b""))
    if _SOURCE[True] in addresses:
        source, destination = addresses[_SOURCE[True]], addresses[_DESTINATION[True]]
    else:
        source, destination = _MAPPED + addresses[_SOURCE[False]], _MAPPED + addresses[_DESTINATION[False]]
    return ports[_NUMBER][0], Ends(
        source,
        int.from_bytes(ports.get(_SOURCE_PORT, b""), "big"),
        destination,
        int.from_bytes(ports.get(_DESTINATION_PORT, b""), "big"),
    )
