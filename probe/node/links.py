"""Raw netlink messages about links, addresses and routes, read in the network namespace of the calling thread.

pyroute2 knows most of this, but not the dumps of another namespace by its id, and it takes a millisecond where the time
between an interface's appearance and its programs counts.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from probe.node.netlink_messages import DUMP, REQUEST, attribute, attributes, messages, number_attribute, request, text

_SOL_NETLINK: Final = 270
_GET_STRICT_CHK: Final = 12
_TIMEOUT_S: Final = 5.0
_NEWLINK, _DELLINK, _GETLINK, _GETADDR, _GETROUTE, _GETNSID = 16, 17, 18, 22, 26, 90
_NETNSA_NSID, _NETNSA_FD = 1, 3
_LINK_MESSAGE: Final = 16
"""Bytes of struct ifinfomsg, which the attributes of a link follow."""
_IFA_TARGET_NETNSID, _IFLA_TARGET_NETNSID = 10, 46
_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_LINK, _IFLA_MASTER = 1, 3, 5, 10
_IFLA_LINKINFO, _IFLA_LINK_NETNSID, _IFLA_INFO_KIND = 18, 37, 1
_RTA_OIF, _RTA_GATEWAY, _RTA_MULTIPATH, _RTA_VIA = 4, 5, 9, 18
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
    address: bytes
    """Its link-layer address."""
    master: int
    """Index of the bridge, or of the other device, that it is a port of; 0: of none."""


def link_messages(block: bytes) -> Iterator[tuple[bool, bytes]]:
    """Yield whether a link is gone, and the body (struct ifinfomsg, then attributes), of each message about a link.

    ``block`` is one read of a netlink socket. A bridge sends messages of the same kinds, of its own family, when a link
    becomes its port and when it no longer is (net/bridge/br_netlink.c, br_info_notify). They are left out: a link that
    leaves a bridge is not gone.
    """
    for kind, body in messages(block):
        if kind in (_NEWLINK, _DELLINK) and len(body) >= _LINK_MESSAGE and body[0] == socket.AF_UNSPEC:
            yield kind == _DELLINK, body


def links_in(block: bytes) -> Iterator[Link]:
    """Yield the link of each message about one, from one read of a netlink socket."""
    for gone, body in link_messages(block):
        yield _link_of(body, gone=gone)


def read_link(index: int) -> Link | None:
    """Return a link by its index, None if it is gone."""
    try:
        return get_link(index)
    except OSError:
        return None


def is_here(index: int) -> bool:
    """Return whether this namespace has a link with this index. Raises OSError if the kernel does not answer."""
    try:
        return bool(get_link(index))
    except OSError as error:
        if error.errno != errno.ENODEV:
            raise
        return False


def get_link(index: int = 0, name: str = "", namespace: int | None = None) -> Link:
    """Return a link by its index or its name, of this namespace or of another by its id.

    Raises OSError if there is no such link."""
    found = b"" if namespace is None else number_attribute(_IFLA_TARGET_NETNSID, namespace)
    found += attribute(_IFLA_IFNAME, name.encode() + b"\0") if name else b""
    header = struct.pack("=BBHiII", 0, 0, 0, index, 0, 0)
    _, body = next(_request(_GETLINK, REQUEST, header + found))
    return _link_of(body)


def read_links(namespace: int | None = None) -> list[Link]:
    """Return all links, of this namespace or of another by its id. Raises OSError."""
    target = b"" if namespace is None else number_attribute(_IFLA_TARGET_NETNSID, namespace)
    return [_link_of(body) for _, body in _request(_GETLINK, DUMP, bytes(_LINK_MESSAGE) + target)]


def read_namespaces() -> list[int]:
    """Return the ids of the other network namespaces that this one knows. Raises OSError."""
    found = [attributes(body[4:]).get(_NETNSA_NSID) for _, body in _request(_GETNSID, DUMP, bytes(4))]
    return [int.from_bytes(number, "little", signed=True) for number in found if number is not None]


def namespace_id(descriptor: int) -> int:
    """Return the id that this network namespace has for that of a descriptor; negative: it has none. Raises OSError."""
    _, body = next(_request(_GETNSID, REQUEST, bytes(4) + number_attribute(_NETNSA_FD, descriptor)))
    return int.from_bytes(attributes(body[4:])[_NETNSA_NSID], "little", signed=True)


def read_addresses(namespace: int | None = None) -> Iterator[bytes]:
    """Yield the body of each message about an address, of this namespace or of another by its id. Raises OSError.

    IFA_TARGET_NETNSID needs no SYS_ADMIN, which setns(2) would need. The kernel reads this attribute only from a socket
    with strict checks (net/ipv4/devinet.c, inet_valid_dump_ifaddr_req).
    """
    target = b"" if namespace is None else number_attribute(_IFA_TARGET_NETNSID, namespace)
    for _, body in _request(_GETADDR, DUMP, bytes(8) + target):
        yield body


def has_gateway(index: int) -> bool:
    """Return whether a route leads over a gateway behind this link, as behind an uplink of the node. Raises OSError."""
    for family in (socket.AF_INET, socket.AF_INET6):
        header = struct.pack("=BBBBBBBBI", family, 0, 0, 0, 0, 0, 0, 0, 0)
        for _, body in _request(_GETROUTE, DUMP, header + number_attribute(_RTA_OIF, index)):
            if attributes(body[12:]).keys() & {_RTA_GATEWAY, _RTA_MULTIPATH, _RTA_VIA}:
                return True
    return False


def _link_of(body: bytes, *, gone: bool = False) -> Link:
    index, flags = struct.unpack_from("=iI", body, 4)
    found = attributes(body[_LINK_MESSAGE:])
    info = attributes(found.get(_IFLA_LINKINFO, b""))
    namespace = found.get(_IFLA_LINK_NETNSID)
    return Link(
        index,
        text(found.get(_IFLA_IFNAME)),
        text(info.get(_IFLA_INFO_KIND)),
        int.from_bytes(found.get(_IFLA_LINK, b""), "little"),
        None if namespace is None else int.from_bytes(namespace, "little", signed=True),
        bool(flags & _IFF_LOOPBACK),
        gone,
        found.get(_IFLA_ADDRESS, b""),
        int.from_bytes(found.get(_IFLA_MASTER, b""), "little"),
    )


def _request(kind: int, flags: int, body: bytes) -> Iterator[tuple[int, bytes]]:
    """Send a request, and yield kind and body of each message that answers it. Raises OSError."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE) as requesting:
        requesting.setsockopt(_SOL_NETLINK, _GET_STRICT_CHK, 1)
        requesting.settimeout(_TIMEOUT_S)
        yield from request(requesting, kind, flags, body)
