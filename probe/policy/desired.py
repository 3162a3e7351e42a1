"""What the kernel's maps must hold, and what the kernel answers from it. Values; no cluster, no kernel."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from enrich.policy.decide import Direction
from enrich.wire.batch import PolicyRef, Reason, Verdict

POD, NODE, WORLD = 0, 1, 2
"""Kinds of peer, as in ``bpf/layout.h``."""

AddressKey = tuple[bytes, int]
"""16 bytes, IPv4 as v4-mapped IPv6, and the prefix's length, 0 to 128."""
RowKey = tuple[int, int, int]
"""Set, direction, identity."""
PortKey = tuple[int, int, int, int]
"""Row, protocol, port, bits: the ports that share the upper ``bits`` bits of ``port``."""


class Row(NamedTuple):
    """The answer where no entry of ``ports`` matches; ``ports`` 0: there are none."""

    ports: int
    rule: int
    verdict: int
    reason: int


class Answer(NamedTuple):
    """The answer for a port."""

    verdict: int
    reason: int
    rule: int


class Identity(NamedTuple):
    """What an address stands for."""

    number: int
    kind: int


Defaults = tuple[tuple[Row, Row, Row], tuple[Row, Row, Row]]
"""By direction (egress, ingress) and kind of peer."""

OPEN: Final = Row(0, 0, Verdict.ALLOW, Reason.NO_POLICY)
"""No policy selects the subject in this direction."""


@dataclass(frozen=True, slots=True)
class PolicySet:
    """What applies to a subject."""

    number: int
    defaults: Defaults


@dataclass(slots=True)
class Touched:
    """The keys whose entries changed since somebody last looked; who takes them clears them."""

    addresses: set[AddressKey] = field(default_factory=set)
    rows: set[RowKey] = field(default_factory=set)
    ports: set[PortKey] = field(default_factory=set)

    def clear(self) -> None:
        """They have been taken."""
        self.addresses.clear()
        self.rows.clear()
        self.ports.clear()


@dataclass(frozen=True, slots=True)
class Desired:
    """What the maps must hold. Kept by one compiler, which changes it in place."""

    ipcache: dict[AddressKey, Identity] = field(default_factory=dict)
    sets: dict[str, PolicySet] = field(default_factory=dict)
    """By the subject's UID."""
    rows: dict[RowKey, Row] = field(default_factory=dict)
    """Where it is not the set's default."""
    ports: dict[PortKey, Answer] = field(default_factory=dict)
    rules: dict[int, tuple[PolicyRef, ...]] = field(default_factory=dict)
    touched: Touched = field(default_factory=Touched)


def lookup(desired: Desired, uid: str, direction: Direction, peer: str, protocol: int, port: int) -> Answer:
    """What the kernel answers, by the same steps: address, row or the set's default, longest port prefix."""
    number = int.from_bytes(host_key(peer)[0], "big")
    identity = Identity(0, WORLD)
    for length in range(128, -1, -1):
        masked = (number >> (128 - length) << (128 - length)).to_bytes(16, "big")
        if (masked, length) in desired.ipcache:
            identity = desired.ipcache[masked, length]
            break
    policy_set = desired.sets[uid]
    row = desired.rows.get(
        (policy_set.number, int(direction), identity.number), policy_set.defaults[direction][identity.kind]
    )
    for bits in range(16, -1, -1) if row.ports else ():
        answer = desired.ports.get((row.ports, protocol, port >> (16 - bits) << (16 - bits), bits))
        if answer is not None:
            return answer
    return Answer(row.verdict, row.reason, row.rule)


def host_key(ip: str) -> AddressKey:
    """The ipcache key of one address."""
    address = ipaddress.ip_address(ip)
    return (address.packed if address.version == 6 else bytes(10) + b"\xff\xff" + address.packed), 128


def family_of(key: AddressKey) -> int:
    """4 or 6: whose addresses a key's prefix holds."""
    return 4 if key[1] >= 96 and key[0][:12] == bytes(10) + b"\xff\xff" else 6
