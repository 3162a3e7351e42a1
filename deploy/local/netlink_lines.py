"""The commands of iproute2's ip that set up a pod, carried out by netlink in the calling thread's network namespace.

The tests run tens of thousands of them. To start ip takes 3 ms of CPU, and on a busy machine a wait for its turn; to
send such a message takes a tenth of a millisecond (pyroute2: 0.6). Any command that is not in the table of
:func:`change_of` is left to ip itself.
"""

from __future__ import annotations

import functools
import ipaddress
import os
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Final

from probe.node.netlink_messages import CHANGE, NESTED, attribute, number_attribute, request

_NEWLINK, _DELLINK, _NEWADDR, _NEWROUTE = 16, 17, 20, 24
_ADD, _REPLACE = 0x600, 0x500
"""NLM_F_CREATE with NLM_F_EXCL, which ip sends for "add", and with NLM_F_REPLACE."""
_IFLA_IFNAME, _IFLA_MASTER, _IFLA_LINKINFO, _IFLA_NET_NS_FD = 3, 10, 18, 28
_IFLA_INFO_KIND, _IFLA_INFO_DATA, _IFLA_INFO_SLAVE_KIND, _IFLA_INFO_SLAVE_DATA = 1, 2, 4, 5
_VETH_INFO_PEER, _IFLA_BRPORT_MODE = 1, 4
_IFF_UP: Final = 1
_IFA_ADDRESS, _IFA_LOCAL, _IFA_F_NODAD = 1, 2, 2
_RTA_DST, _RTA_OIF, _RTA_GATEWAY = 1, 4, 5
_RT_TABLE_MAIN, _RTPROT_BOOT, _RTN_UNICAST = 254, 3, 1
_RT_SCOPE_UNIVERSE, _RT_SCOPE_LINK = 0, 253

Change = Callable[[], None]


def change_of(line: str) -> Change | None:
    """Return what carries out a command in the calling thread's namespace, and raises OSError; None leaves it to ip."""
    match line.split():
        case ["link", "add", name, "type", "veth", "peer", "name", peer, "netns", namespace]:
            return functools.partial(_add_pair, name, peer, namespace)
        case ["link", "set", name, "up"]:
            return functools.partial(_set_link, name, up=True)
        case ["link", "set", name, "master", bridge]:
            return functools.partial(_set_link, name, master=bridge)
        case ["link", "set", name, "type", "bridge_slave", "hairpin", "on"]:
            return functools.partial(_set_link, name, hairpin=True)
        case ["link", "del", name]:
            return functools.partial(_delete_link, name)
        case ["addr", "add", address, "dev", name, *nodad] if nodad in ([], ["nodad"]) and "/" in address:
            return functools.partial(_add_address, address, name, _IFA_F_NODAD if nodad else 0)
        case ["route", ("add" | "replace") as verb, to, "dev", name] if to != "default" and _is_address(to):
            return functools.partial(_add_route, verb, to, "", name)
        case ["route", ("add" | "replace") as verb, to, "via", gateway, "dev", name]:
            return functools.partial(_add_route, verb, to, gateway, name)
        case ["route", ("add" | "replace") as verb, to, "via", gateway]:
            return functools.partial(_add_route, verb, to, gateway, "")
        case _:
            return None


def _is_address(to: str) -> bool:
    return to[:1].isdigit() or ":" in to


def _add_pair(name: str, peer: str, namespace: str) -> None:
    descriptor = os.open(Path("/run/netns") / namespace, os.O_RDONLY)
    try:
        other = _link() + _name(peer) + number_attribute(_IFLA_NET_NS_FD, descriptor)
        data = attribute(_IFLA_INFO_DATA | NESTED, attribute(_VETH_INFO_PEER | NESTED, other))
        _send(_NEWLINK, _ADD, _link() + _name(name) + _information(attribute(_IFLA_INFO_KIND, b"veth") + data))
    finally:
        os.close(descriptor)


def _set_link(name: str, *, up: bool = False, master: str = "", hairpin: bool = False) -> None:
    index, body = socket.if_nametoindex(name), b""
    if master:
        body = number_attribute(_IFLA_MASTER, socket.if_nametoindex(master))
    if hairpin:
        mode = attribute(_IFLA_INFO_SLAVE_DATA | NESTED, attribute(_IFLA_BRPORT_MODE, b"\1"))
        body = _information(attribute(_IFLA_INFO_SLAVE_KIND, b"bridge") + mode)
    _send(_NEWLINK, 0, _link(index, _IFF_UP if up else 0) + body)


def _delete_link(name: str) -> None:
    """Delete a device. The acknowledgement comes when it is gone."""
    _send(_DELLINK, 0, _link(socket.if_nametoindex(name)))


def _add_address(address: str, name: str, flags: int) -> None:
    made = ipaddress.ip_interface(address)
    family = socket.AF_INET if made.version == 4 else socket.AF_INET6
    head = struct.pack("=BBBBI", family, made.network.prefixlen, flags, 0, socket.if_nametoindex(name))
    _send(_NEWADDR, _ADD, head + attribute(_IFA_LOCAL, made.packed) + attribute(_IFA_ADDRESS, made.packed))


def _add_route(verb: str, to: str, gateway: str, name: str) -> None:
    six = ":" in (gateway or to)
    network = ipaddress.ip_network(to if to != "default" else "::/0" if six else "0.0.0.0/0")
    # A gateway must be in reach of a route to a neighbour; IPv6 has no scopes of routes.
    scope = _RT_SCOPE_UNIVERSE if gateway or six else _RT_SCOPE_LINK
    family = socket.AF_INET6 if six else socket.AF_INET
    kinds = (_RT_TABLE_MAIN, _RTPROT_BOOT, scope, _RTN_UNICAST)
    body = struct.pack("=BBBBBBBBI", family, network.prefixlen, 0, 0, *kinds, 0)
    if network.prefixlen:
        body += attribute(_RTA_DST, network.network_address.packed)
    if gateway:
        body += attribute(_RTA_GATEWAY, ipaddress.ip_address(gateway).packed)
    if name:
        body += number_attribute(_RTA_OIF, socket.if_nametoindex(name))
    _send(_NEWROUTE, _REPLACE if verb == "replace" else _ADD, body)


def _link(index: int = 0, flags: int = 0) -> bytes:
    """Return struct ifinfomsg. Of the device's flags, those that are given are set."""
    return struct.pack("=BxHiII", 0, 0, index, flags, flags)


def _name(name: str) -> bytes:
    return attribute(_IFLA_IFNAME, name.encode() + b"\0")


def _information(value: bytes) -> bytes:
    return attribute(_IFLA_LINKINFO | NESTED, value)


def _send(kind: int, flags: int, body: bytes) -> None:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as kernel:
        for _ in request(kernel, kind, CHANGE | flags, body):
            pass  # nothing answers a change but its acknowledgement
