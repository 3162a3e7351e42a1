"""Endpoints: local pods with their interfaces, and the values of the maps ``endpoints`` and ``local_addresses``."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from enrich.wire.mapped_address import packed_address
from probe.kernel.layout import ENDPOINT, LOCAL_NODE, Array
from probe.policy.desired import PolicySet

ABSENT: Final = bytes(ENDPOINT.itemsize)
"""One side of an endpoint's value when the interface has no pod on that side: everything is denied."""


@dataclass(frozen=True, slots=True)
class Bound:
    """A local pod and the interface that was found to be its own."""

    index: int
    """Interface index of the host side of its veth."""
    number: int
    """The endpoint's number in the ledger."""
    uid: str
    addresses: tuple[str, ...]
    older: bool = False
    """The interface existed before the probe. For a minute, UDP packets may then be replies of older connections."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Addresses that do not belong to pods."""

    services: frozenset[str] = frozenset()
    """Addresses that clients of Services dial: cluster IPs, external IPs, IPs of load balancers."""
    node: frozenset[str] = frozenset()
    """All addresses of the node: a masquerade may hide a pod behind any of them."""


def endpoint_key(end: Bound) -> bytes:
    """Return the endpoint's key in ``endpoints``."""
    return end.index.to_bytes(4, "little")


def local_addresses(ends: Mapping[bytes, Bound], node: Iterable[str]) -> dict[bytes, int]:
    """Return, for each address of this node, the index of the interface behind it; LOCAL_NODE for the node's own.

    Those of pods come first: they are written first, so that they have room if the kernel refuses one of the others."""
    of_pods = {packed_address(address): end.index for end in ends.values() for address in end.addresses}
    return of_pods | {packed_address(address): LOCAL_NODE for address in node} | of_pods


def pack(end: Bound, policy: PolicySet, old: bytes, now_ns: int) -> bytes:
    """Return one side of an endpoint's value. ``old`` is the side in force, which may be another pod's or ABSENT."""
    value = np.zeros(1, ENDPOINT)
    known = number_of(old) == end.number
    value["number"] = end.number
    value["set"] = policy.number
    value["attached_ns"] = _one(old)["attached_ns"] if known else now_ns if end.older else 0
    for address in end.addresses:
        family = 1 if ipaddress.ip_address(address).version == 6 else 0
        value["address"][0][family] = np.frombuffer(packed_address(address), "u1")
    for direction, kinds in enumerate(policy.defaults):
        for kind, entry in enumerate(kinds):
            value["defaults"][0][direction][kind] = (entry.port_list, entry.rule, entry.verdict, entry.reason, (0, 0))
    return value.tobytes()


def number_of(side: bytes) -> int:
    """Return the endpoint's number on one side; 0 if it is absent."""
    return int(_one(side)["number"])


def set_of(side: bytes) -> int:
    """Return the number of the endpoint's policy set on one side; 0 if it is absent or closed."""
    return int(_one(side)["set"])


def _one(side: bytes) -> Array:
    found: Array = np.frombuffer(side, ENDPOINT)[0]
    return found
