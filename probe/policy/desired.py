"""What the kernel's maps must hold, and what the kernel answers from it. Values; no cluster, no kernel."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from enrich.wire.batch import PolicyRef, Reason, Verdict

POD, NODE, WORLD = 0, 1, 2
"""Kinds of peer, as in ``bpf/layout.h``."""

AddressKey = tuple[bytes, int]
"""16 bytes, IPv4 as v4-mapped IPv6, and the prefix's length, 0 to 128."""
PolicyKey = tuple[int, int, int]
"""Set, direction, identity."""
PortKey = tuple[int, int, int, int]
"""Row, protocol, port, bits: the ports that share the upper ``bits`` bits of ``port``."""


class PolicyEntry(NamedTuple):
    """The answer where no entry of ``ports`` matches; ``ports`` 0: there are none."""

    port_list: int
    rule: int
    verdict: int
    reason: int


class PortEntry(NamedTuple):
    """The answer for a port."""

    verdict: int
    reason: int
    rule: int


class Identity(NamedTuple):
    """What an address stands for."""

    number: int
    kind: int


Defaults = tuple[tuple[PolicyEntry, PolicyEntry, PolicyEntry], tuple[PolicyEntry, PolicyEntry, PolicyEntry]]
"""By direction (egress, ingress) and kind of peer."""

OPEN: Final = PolicyEntry(0, 0, Verdict.ALLOW, Reason.NO_POLICY)
"""No policy selects the subject in this direction."""


@dataclass(frozen=True, slots=True)
class PolicySet:
    """What applies to a subject."""

    number: int
    defaults: Defaults


@dataclass(slots=True)
class ChangedKeys:
    """The keys whose entries changed since somebody last looked; who takes them clears them."""

    addresses: set[AddressKey] = field(default_factory=set)
    policy_entries: set[PolicyKey] = field(default_factory=set)
    port_entries: set[PortKey] = field(default_factory=set)

    def clear(self) -> None:
        """They have been taken."""
        self.addresses.clear()
        self.policy_entries.clear()
        self.port_entries.clear()


@dataclass(frozen=True, slots=True)
class Desired:
    """What the maps must hold. Kept by one compiler, which changes it in place."""

    ipcache: dict[AddressKey, Identity] = field(default_factory=dict)
    policy_sets: dict[str, PolicySet] = field(default_factory=dict)
    """By the subject's UID."""
    policy_entries: dict[PolicyKey, PolicyEntry] = field(default_factory=dict)
    """Where it is not the set's default."""
    port_entries: dict[PortKey, PortEntry] = field(default_factory=dict)
    rules: dict[int, tuple[PolicyRef, ...]] = field(default_factory=dict)
    changed_keys: ChangedKeys = field(default_factory=ChangedKeys)


def host_key(ip: str) -> AddressKey:
    """The ipcache key of one address."""
    address = ipaddress.ip_address(ip)
    return (address.packed if address.version == 6 else bytes(10) + b"\xff\xff" + address.packed), 128


def family_of(key: AddressKey) -> int:
    """4 or 6: whose addresses a key's prefix holds."""
    return 4 if key[1] >= 96 and key[0][:12] == bytes(10) + b"\xff\xff" else 6
