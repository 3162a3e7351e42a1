"""Finds the host's end of a pod's interface from a descriptor of the pod's network namespace, without entering it.

The container runtime names the namespace by a path, which the CNI plugin opens: the probe is in a container of its own
and has no SYS_ADMIN, without which setns(2) is refused. Three requests by netlink need NET_ADMIN only:

1. RTM_GETNSID with the descriptor: the id that the node's namespace has for the pod's.
2. RTM_GETLINK in that namespace, by name: the interface's index there, its kind, and the index of the other end.
3. RTM_GETLINK of that index here: its other end must be the interface of step 2, in that namespace.
"""

from __future__ import annotations

import os
import socket
import struct
from dataclasses import dataclass
from typing import Final

_RTM_GETNSID, _RTM_GETLINK = 90, 18
_REQUEST: Final = 1
_ERROR: Final = 2
_NETNSA_NSID, _NETNSA_FD = 1, 3
_IFLA_IFNAME, _IFLA_LINK, _IFLA_LINKINFO, _IFLA_LINK_NETNSID, _IFLA_TARGET_NETNSID = 3, 5, 18, 37, 46
_IFLA_INFO_KIND: Final = 1
_HEADER, _LINK_MESSAGE, _GENERIC_MESSAGE = 16, 16, 4
_NESTED: Final = 0x3FFF
"""Attribute types without the flags NLA_F_NESTED and NLA_F_NET_BYTEORDER."""


class NotEnforceableError(Exception):
    """The interface has no end on this node to which programs can be attached; the message says why."""


@dataclass(frozen=True, slots=True)
class _Link:
    index: int
    other: int
    other_namespace: int | None
    kind: str


def host_end(descriptor: int, name: str) -> int:
    """Return the index of the host's end of the interface ``name``, on a thread in the node's network namespace.

    Raises NotEnforceableError, and OSError if there is no such interface.
    """
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE) as asking:
        asking.settimeout(5)
        namespace = _namespace_id(asking, descriptor)
        if namespace < 0:
            raise NotEnforceableError(f"no interface of this node leads to the network namespace of {name}")
        inside = _link(asking, 0, _attribute(_IFLA_TARGET_NETNSID, namespace)
                       + _text_attribute(_IFLA_IFNAME, name))  # fmt: skip
        if inside.kind != "veth":
            raise NotEnforceableError(f"{name} is not a veth, but {inside.kind or 'a device of the machine'}")
        outside = _link(asking, inside.other, b"")
        if (outside.kind, outside.other, outside.other_namespace) != ("veth", inside.index, namespace):
            raise NotEnforceableError(f"the other end of {name} is not in this node's network namespace")
        return outside.index


def _namespace_id(asking: socket.socket, descriptor: int) -> int:
    answer = _ask(asking, _RTM_GETNSID, bytes(_GENERIC_MESSAGE) + _attribute(_NETNSA_FD, descriptor))
    found: int = struct.unpack("=i", _attributes(answer[_GENERIC_MESSAGE:])[_NETNSA_NSID])[0]
    return found


def _link(asking: socket.socket, index: int, attributes: bytes) -> _Link:
    answer = _ask(asking, _RTM_GETLINK, struct.pack("=BBHiII", 0, 0, 0, index, 0, 0) + attributes)
    found = _attributes(answer[_LINK_MESSAGE:])
    info = _attributes(found.get(_IFLA_LINKINFO, b""))
    return _Link(
        index=struct.unpack_from("=i", answer, 4)[0],
        other=struct.unpack("=i", found[_IFLA_LINK])[0] if _IFLA_LINK in found else 0,
        other_namespace=struct.unpack("=i", found[_IFLA_LINK_NETNSID])[0] if _IFLA_LINK_NETNSID in found else None,
        kind=info.get(_IFLA_INFO_KIND, b"").rstrip(b"\0").decode(),
    )


def _ask(asking: socket.socket, kind: int, body: bytes) -> bytes:
    asking.send(struct.pack("=IHHII", _HEADER + len(body), kind, _REQUEST, 1, 0) + body)
    answer = asking.recv(1 << 16)
    length, answered = struct.unpack_from("=IH", answer)
    if answered == _ERROR:
        code = -struct.unpack_from("=i", answer, _HEADER)[0]
        raise OSError(code, os.strerror(code))
    return answer[_HEADER:length]


def _attribute(kind: int, value: int) -> bytes:
    return struct.pack("=HHi", 8, kind, value)


def _text_attribute(kind: int, text: str) -> bytes:
    raw = text.encode() + b"\0"
    return struct.pack("=HH", 4 + len(raw), kind) + raw + bytes(-len(raw) % 4)


def _attributes(block: bytes) -> dict[int, bytes]:
    found = {}
    while len(block) >= 4:
        length, kind = struct.unpack_from("=HH", block)
        if length < 4:
            break
        found[kind & _NESTED] = block[4:length]
        block = block[(length + 3) & ~3 :]
    return found
