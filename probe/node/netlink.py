"""Reads and changes the node's network by netlink: veths, the addresses behind them, tc filters.

This is the only module that imports pyroute2. All calls run on one thread, which may be in another network namespace
than the process: in production the probe is in the node's own, in the demo and the tests each "node" is a namespace.
The thread matters, because the kernel looks up an interface index, also that of a TCX link, in the namespace of the
calling thread (``current->nsproxy``).
"""

from __future__ import annotations

import contextlib
import ctypes
import ipaddress
import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, ParamSpec, TypeVar

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from probe.node.links import read_addresses
from probe.node.netlink_messages import attributes

P = ParamSpec("P")
T = TypeVar("T")

_CLONE_NEWNET: Final = 0x40000000
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_IFF_LOOPBACK: Final = 0x8
_ARPHRD_ETHER: Final = 1
_ETHERNET_TUNNELS: Final = {"vxlan", "geneve", "gretap", "ip6gretap", "erspan", "ip6erspan"}
"""Kinds of tunnels whose packets have an Ethernet header. Every device without one is a tunnel or a tun device."""
_PORT_ATTRIBUTES: Final = {
    "vxlan": "IFLA_VXLAN_PORT",
    "geneve": "IFLA_GENEVE_PORT",
    "bareudp": "IFLA_BAREUDP_PORT",
}
_GROUPS: Final = 0x1 | 0x8 | 0x10 | 0x100
"""RTMGRP_LINK, RTMGRP_TC, RTMGRP_IPV4_IFADDR, RTMGRP_IPV6_IFADDR."""


class NetworkError(RuntimeError):
    """The node's network cannot be read or changed; the message says why."""


@dataclass(frozen=True, slots=True)
class Veth:
    """The host's end of a veth pair. ``addresses`` are those of the other end, as canonical text."""

    index: int
    name: str
    addresses: frozenset[str]
    namespace: int | None = None
    """The node's id of the network namespace that has the other end."""
    first: frozenset[str] = frozenset()
    """The addresses that were first seen at the other end: those that the CNI plugin gave it."""


@dataclass(frozen=True, slots=True)
class Device:
    """A device by which packets leave the node, or go to another pod on it."""

    index: int
    name: str
    ethernet: bool
    """Whether its packets have an Ethernet header; those of a tunnel have none."""
    gives_back: bool = False
    """Whether no packet leaves the node by it: an ifb shapes packets and gives them back to the device from which they
    were redirected, before DNAT."""
    unwraps: bool = False
    """Whether it is the end of a tunnel: what it gives out arrived inside other packets."""
    tunnel_port: int = 0
    """The UDP port at which it takes those packets; 0 if it has none."""


class NodeNetwork:
    """The network of one node."""

    def __init__(self, namespace: Path | None = None) -> None:
        """Enter ``namespace``, or stay in the process' own if it is None. Raises NetworkError."""
        self._thread = ThreadPoolExecutor(1, "netlink")
        self._namespace = namespace
        self._local = threading.local()
        try:
            self.run(self.join)
        except Exception as error:
            self._thread.shutdown()
            where = f"namespace {namespace} (WEIR_NETNS)" if namespace else "network"
            raise NetworkError(f"the node's {where} cannot be entered: {error}") from error

    def join(self) -> None:
        """Have the calling thread make calls itself from now on, without waiting for those of other threads."""
        _enter(self._namespace)
        self._local.route = IPRoute()

    def leave(self) -> None:
        """Close the socket of a thread that has joined, before it ends."""
        self._route.close()

    @property
    def _route(self) -> IPRoute:
        return self._local.route

    def run(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a function in the node's namespace and return its result. Raises OSError."""
        try:
            if hasattr(self._local, "route"):
                return call(*args, **kwargs)
            return self._thread.submit(call, *args, **kwargs).result()
        except NetlinkError as error:
            # NetlinkError is not an OSError, but a device that disappears or an interrupted dump is not exceptional.
            raise OSError(error.code, str(error)) from error

    def veths(self) -> list[Veth]:
        """Return every veth whose other end is in another namespace, with the addresses of that end."""
        return self.run(self._veths)

    def devices(self) -> list[Device]:
        """Return every device except the loopback and bridges; the ports of a bridge are devices themselves."""
        return self.run(self._devices)

    def node_addresses(self) -> frozenset[str]:
        """Return the node's own addresses except loopback ones.

        Link-local ones are included: a masquerade may use that of a veth.
        """
        return self.run(lambda: frozenset(a for _, a in addresses_in(None) if not ipaddress.ip_address(a).is_loopback))

    def subscribe(self) -> socket.socket:
        """Return a netlink socket that becomes readable when links, addresses, qdiscs or filters of the node change."""
        return self.run(_subscribe)

    def tc(self, command: str, kind: str, index: int, handle: int = 0, **options: object) -> None:
        """Change a qdisc or a filter of a device (``IPRoute.tc``). Raises OSError."""
        self.run(lambda: self._route.tc(command, kind, index, handle, **options))

    def qdiscs(self, index: int) -> list[Any]:
        """Return the qdiscs of a device, as netlink messages. Raises OSError."""
        return self.run(lambda: list(self._route.get_qdiscs(index)))

    def filters(self, index: int, parent: int) -> list[Any]:
        """Return the filters below a parent of a device in the order in which they run. Raises OSError."""
        return self.run(lambda: list(self._route.get_filters(index=index, parent=parent)))

    def close(self) -> None:
        """Close the sockets and end the thread."""
        self.run(self.leave)
        self._thread.shutdown()

    def _veths(self) -> list[Veth]:
        found = []
        for link in self._route.get_links():
            info = link.get_attr("IFLA_LINKINFO")
            namespace = link.get_attr("IFLA_LINK_NETNSID")
            if namespace is None or not info or info.get_attr("IFLA_INFO_KIND") != "veth":
                continue
            peer, addresses = link.get_attr("IFLA_LINK"), frozenset[str]()
            with contextlib.suppress(OSError):  # the namespace was deleted meanwhile; the veth may be there still
                addresses = frozenset(a for index, a in addresses_in(namespace) if index == peer and _is_routed(a))
            found.append(Veth(link["index"], link.get_attr("IFLA_IFNAME"), addresses, namespace))
        return found

    def _devices(self) -> list[Device]:
        found = []
        for link in self._route.get_links():
            info = link.get_attr("IFLA_LINKINFO")
            kind = info.get_attr("IFLA_INFO_KIND") if info else None
            if link["flags"] & _IFF_LOOPBACK or kind == "bridge":
                continue
            ethernet = link["ifi_type"] == _ARPHRD_ETHER
            found.append(
                Device(
                    link["index"],
                    link.get_attr("IFLA_IFNAME"),
                    ethernet,
                    gives_back=kind == "ifb",
                    unwraps=not ethernet or kind in _ETHERNET_TUNNELS,
                    tunnel_port=_tunnel_port(info, kind),
                )
            )
        return found


def _tunnel_port(info: Any, kind: str | None) -> int:
    attribute = _PORT_ATTRIBUTES.get(kind or "")
    data = info.get_attr("IFLA_INFO_DATA") if attribute else None
    return int(data.get_attr(attribute) or 0) if data else 0


def _enter(namespace: Path | None) -> None:
    if namespace is None:
        return
    descriptor = os.open(namespace, os.O_RDONLY)
    try:
        # os.setns is new in Python 3.12.
        if ctypes.CDLL(None, use_errno=True).setns(descriptor, _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"setns({namespace})")
    finally:
        os.close(descriptor)


def _subscribe() -> socket.socket:
    events = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
    events.bind((0, _GROUPS))
    events.settimeout(0)
    return events


def _is_routed(address: str) -> bool:
    parsed = ipaddress.ip_address(address)
    return not (parsed.is_link_local or parsed.is_loopback)


def addresses_in(namespace: int | None) -> Iterator[tuple[int, str]]:
    """Yield interface index and address of each address in a namespace, given by its id, without entering it."""
    for message in read_addresses(namespace):
        yield from _address_of(message)


def _address_of(message: bytes) -> Iterator[tuple[int, str]]:
    if len(message) < 8:
        return
    family, _, _, _, index = struct.unpack_from("=BBBBI", message)
    found = attributes(message[8:])
    raw = found.get(_IFA_LOCAL) or found.get(_IFA_ADDRESS)
    if raw and family in (socket.AF_INET, socket.AF_INET6):
        yield index, str(ipaddress.ip_address(raw))
