"""Raw netlink messages about links, addresses and routes, read in the network namespace of the calling thread.

pyroute2 knows most of this, but not the dumps of another namespace by its id, and it takes a millisecond where the time
between an interface's appearance and its programs counts.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

_SOL_NETLINK: Final = 270
_GET_STRICT_CHK: Final = 12
_REQUEST, _DUMP = 0x0001, 0x0301
_ERROR, _DONE = 2, 3
_NEWLINK, _DELLINK, _GETLINK, _GETADDR, _GETROUTE, _NEWNSID, _GETNSID = 16, 17, 18, 22, 26, 88, 90
_NETNSA_NSID: Final = 1
_IFA_TARGET_NETNSID, _IFLA_TARGET_NETNSID = 10, 46
_IFLA_IFNAME, _IFLA_LINK, _IFLA_LINKINFO, _IFLA_LINK_NETNSID, _IFLA_INFO_KIND = 3, 5, 18, 37, 1
_RTA_OIF, _RTA_GATEWAY, _RTA_MULTIPATH, _RTA_VIA = 4, 5, 9, 18
_NLA_TYPE_MASK: Final = 0x3FFF
_IFF_LOOPBACK: Final = 0x8


@dataclass(frozen=True, slots=True)
class Link:
    """A link as a message describes it."""

    index: int
    name: str
    kind: str
    """Empty: a physical device, or one whose kind the kernel does not say."""
    peer: int
    """Index of the other end of a veth pair, in that end's namespace; 0 while the pair is being made."""
    namespace: int | None
    """The id of the other end's namespace; None if it is this one, or if the pair is being made."""
    loopback: bool
    gone: bool
    """The message says that the link was removed."""


def links_in(message: bytes) -> Iterator[Link]:
    """Yield the link of each message about one, from one read of a netlink socket."""
    for kind, body in _messages(message):
        if kind not in (_NEWLINK, _DELLINK) or len(body) < 16:
            continue
        index, flags = struct.unpack_from("=iI", body, 4)
        found = attributes(body[16:])
        info = attributes(found.get(_IFLA_LINKINFO, b""))
        namespace = found.get(_IFLA_LINK_NETNSID)
        yield Link(
            index,
            _text(found.get(_IFLA_IFNAME)),
            _text(info.get(_IFLA_INFO_KIND)),
            int.from_bytes(found.get(_IFLA_LINK, b""), "little"),
            None if namespace is None else int.from_bytes(namespace, "little", signed=True),
            bool(flags & _IFF_LOOPBACK),
            kind == _DELLINK,
        )


def read_link(index: int) -> Link | None:
    """Return a link by its index, None if it is gone. Raises OSError."""
    try:
        messages = list(_request(_GETLINK, _REQUEST, struct.pack("=BBHiII", 0, 0, 0, index, 0, 0)))
    except OSError:
        return None
    return next((link for message in messages for link in links_in(message)), None)


def read_links(namespace: int | None = None) -> list[Link]:
    """Return all links, of this namespace or of another by its id. Raises OSError."""
    target = b"" if namespace is None else _attribute(_IFLA_TARGET_NETNSID, namespace)
    return [link for message in _request(_GETLINK, _DUMP, bytes(16) + target) for link in links_in(message)]


def read_namespaces() -> list[int]:
    """Return the ids of the other network namespaces that this one knows. Raises OSError."""
    found = []
    for message in _request(_GETNSID, _DUMP, bytes(4)):
        for kind, body in _messages(message):
            number = attributes(body[4:]).get(_NETNSA_NSID)
            if kind == _NEWNSID and number is not None:
                found.append(int.from_bytes(number, "little", signed=True))
    return found


def read_addresses(namespace: int | None = None) -> Iterator[bytes]:
    """Yield the body of each message about an address, of this namespace or of another by its id. Raises OSError.

    IFA_TARGET_NETNSID needs no SYS_ADMIN, which setns(2) would need. The kernel reads this attribute only from a socket
    with strict checks (net/ipv4/devinet.c, inet_valid_dump_ifaddr_req).
    """
    target = b"" if namespace is None else _attribute(_IFA_TARGET_NETNSID, namespace)
    for message in _request(_GETADDR, _DUMP, bytes(8) + target):
        yield from (body for _, body in _messages(message))


def has_gateway(index: int) -> bool:
    """Return whether a route leads over a gateway behind this link, as behind an uplink of the node. Raises OSError."""
    for family in (socket.AF_INET, socket.AF_INET6):
        header = struct.pack("=BBBBBBBBI", family, 0, 0, 0, 0, 0, 0, 0, 0)
        for message in _request(_GETROUTE, _DUMP, header + _attribute(_RTA_OIF, index)):
            for _, body in _messages(message):
                found = attributes(body[12:])
                if found.keys() & {_RTA_GATEWAY, _RTA_MULTIPATH, _RTA_VIA}:
                    return True
    return False


def attributes(data: bytes) -> dict[int, bytes]:
    """Return the attributes of a message by their type."""
    found: dict[int, bytes] = {}
    while len(data) >= 4:
        length, kind = struct.unpack_from("=HH", data)
        if length < 4:
            break
        found[kind & _NLA_TYPE_MASK] = data[4:length]
        data = data[(length + 3) & ~3 :]
    return found


def _attribute(kind: int, value: int) -> bytes:
    return struct.pack("=HHi", 8, kind, value)


def _text(value: bytes | None) -> str:
    return (value or b"").rstrip(b"\0").decode(errors="replace")


def _messages(block: bytes) -> Iterator[tuple[int, bytes]]:
    while len(block) >= 16:
        length, kind = struct.unpack_from("=IH", block)
        if length < 16:
            return
        yield kind, block[16:length]
        block = block[(length + 3) & ~3 :]


def _request(kind: int, flags: int, body: bytes) -> Iterator[bytes]:
    """Send a request, and yield each block of messages that answers it. Raises OSError."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE) as requesting:
        requesting.setsockopt(_SOL_NETLINK, _GET_STRICT_CHK, 1)
        requesting.send(struct.pack("=IHHII", 16 + len(body), kind, flags, 1, 0) + body)
        while True:
            block = requesting.recv(1 << 16)
            for answer, content in _messages(block):
                if answer == _ERROR:
                    code = -struct.unpack_from("=i", content)[0]
                    raise OSError(code, os.strerror(code))
                if answer == _DONE:
                    yield block
                    return
            yield block
            if flags == _REQUEST:
                return
