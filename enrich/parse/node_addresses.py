"""The addresses of a node that the API does not list: those of its tunnel and its bridge.

A packet that the node itself sends to another node's pod leaves through the overlay's tunnel, with the tunnel's address
as its source. Network plugins write that address to an annotation, or take the first addresses of the node's range of
pods for it: flannel.1 has the range's first, and a bridge (cni0, kindnet's and Antrea's gateway) the second. Calico and
Cilium give these two to pods. An annotation that is not an address is skipped, because only a name depends on it.
"""

from __future__ import annotations

import contextlib
import ipaddress
from collections.abc import Iterable, Mapping
from typing import Any, Final

_ANNOTATIONS: Final = (
    "flannel.alpha.coreos.com/public-ip",
    "flannel.alpha.coreos.com/public-ipv6",
    "projectcalico.org/IPv4Address",
    "projectcalico.org/IPv6Address",
    "projectcalico.org/IPv4IPIPTunnelAddr",
    "projectcalico.org/IPv4VXLANTunnelAddr",
    "projectcalico.org/IPv6VXLANTunnelAddr",
    "projectcalico.org/IPv4WireguardInterfaceAddr",
    "projectcalico.org/IPv6WireguardInterfaceAddr",
    "network.cilium.io/ipv4-cilium-host",
    "network.cilium.io/ipv6-cilium-host",
    "io.cilium.network.ipv4-cilium-host",
    "io.cilium.network.ipv6-cilium-host",
)
_FLANNEL: Final = "flannel.alpha.coreos.com/"
_NOT_RESERVED: Final = ("projectcalico.org/", "network.cilium.io/", "io.cilium.network.")
"""Annotations of plugins that do not keep the first addresses of a range from pods."""
_LEAST_ADDRESSES: Final = 8
"""A smaller range has no addresses to reserve."""


def tunnel_addresses(annotations: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the addresses that annotations of network plugins name, with or without the length of a prefix."""
    found = []
    for key in _ANNOTATIONS:
        with contextlib.suppress(ValueError):
            found.append(str(ipaddress.ip_interface(str(annotations[key])).ip) if key in annotations else "")
    return tuple(dict.fromkeys(ip for ip in found if ip))


def reserved_addresses(annotations: Mapping[str, Any], pod_cidrs: Iterable[str]) -> tuple[str, ...]:
    """Return the first two addresses of the ranges of the node's pods, unless its network plugin gives them to pods."""
    keys = tuple(map(str, annotations))
    if not any(key.startswith(_FLANNEL) for key in keys) and any(key.startswith(_NOT_RESERVED) for key in keys):
        return ()
    ranges = map(ipaddress.ip_network, pod_cidrs)
    return tuple(str(one[place]) for one in ranges if one.num_addresses >= _LEAST_ADDRESSES for place in (0, 1))
