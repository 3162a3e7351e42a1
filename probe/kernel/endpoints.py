"""Endpoints: local pods with their interfaces, and the values of the maps ``endpoints`` and ``local_addresses``."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from enrich.wire.mapped_address import packed_address
from probe.kernel.layout import ENDPOINT, Array
from probe.policy.desired import PolicySet


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


def local_addresses(ends: Mapping[bytes, Bound], node: Iterable[str]) -> dict[bytes, bytes | None]:
    """Return, for each address of this node, the index of the interface behind it; 0 for the node's own."""
    own: dict[bytes, bytes | None] = {packed_address(address): bytes(4) for address in node}
    return own | {packed_address(address): key for key, end in ends.items() for address in end.addresses}


def number_of(value: bytes) -> int:
    """Return the endpoint's number in a value of ``endpoints``."""
    return int(_unpacked(value)["number"])


def moving(end: Bound, policy: PolicySet, old: bytes | None, side: int, now_ns: int) -> bytes:
    """Return the endpoint's value while a change is installed and ``side`` is in force.

    The idle side has the new policy set. The side in force keeps what it had. A new endpoint has the new policy set on
    both sides.
    """
    value = np.zeros(1, ENDPOINT)
    kept = _unpacked(old) if old is not None and number_of(old) == end.number else None
    value["number"] = end.number
    value["ready"] = 1
    value["attached_ns"] = kept["attached_ns"] if kept is not None else now_ns if end.older else 0
    for address in end.addresses:
        family = 1 if ipaddress.ip_address(address).version == 6 else 0
        value["address"][0][family] = np.frombuffer(packed_address(address), "u1")
    value["set"] = policy.number
    value["defaults"][0] = _defaults(policy)
    if kept is not None:
        value["set"][0][side] = kept["set"][side]
        value["defaults"][0][side] = kept["defaults"][side]
    return value.tobytes()


def settled(value: bytes, side: int) -> bytes:
    """Return the endpoint's value after the switch to ``side``: the other side becomes equal to it."""
    both = np.frombuffer(value, ENDPOINT).copy()
    both["set"][0][1 - side] = both["set"][0][side]
    both["defaults"][0][1 - side] = both["defaults"][0][side]
    return both.tobytes()


def _unpacked(value: bytes) -> Array:
    found: Array = np.frombuffer(value, ENDPOINT)[0]
    return found


def _defaults(policy: PolicySet) -> Array:
    """Return the set's default entries, by side, direction and kind of peer; both sides alike."""
    kinds = [
        [(entry.port_list, entry.rule, entry.verdict, entry.reason, (0, 0)) for entry in direction]
        for direction in policy.defaults
    ]
    return np.array([kinds, kinds], ENDPOINT["defaults"].base)
