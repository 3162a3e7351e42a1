"""The desired content of the kernel's policy maps, as plain values.

The compiler keeps one :class:`Desired` and changes it in place; the installer writes the difference to the maps. Every
key and value here has a struct of the same meaning in ``bpf/layout.h``. This module depends on neither the
cluster nor the kernel.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, NamedTuple

from enrich.wire.batch import PolicyRef, Reason, Verdict
from enrich.wire.mapped_address import IPV4_BITS, is_ipv4, packed_address

POD, NODE, WORLD, SERVICE, POD_SERVICE = 0, 1, 2, 3, 4
"""Kinds of identity (``enum kind`` in ``bpf/layout.h``). WORLD is every address that is neither a pod's nor a node's.
The compiler makes neither SERVICE nor POD_SERVICE; :mod:`probe.policy.service_addresses` does."""

AddressKey = tuple[bytes, int]
"""A prefix: 16 bytes (IPv4 as IPv4-mapped IPv6) and a length of 0 to 128 bits."""
PolicyKey = tuple[int, int, int]
"""(policy set, direction, identity)."""
PortKey = tuple[int, int, int, int]
"""(port list, protocol, port, bits): the ports that share the upper ``bits`` of the 16 bits of ``port``."""


class PolicyEntry(NamedTuple):
    """What a policy set does with the connections between its subjects and one identity, in one direction."""

    port_list: int
    """Number of the port entries that are looked up first; 0 if the entry is the same for every port."""
    rule: int
    verdict: int
    reason: int


class PortEntry(NamedTuple):
    """What applies to one prefix of ports, in place of the policy entry that refers to the port list."""

    verdict: int
    reason: int
    rule: int


class Identity(NamedTuple):
    """The class of peers that an address belongs to: a number, and one of the kinds above."""

    number: int
    kind: int


Defaults = tuple[tuple[PolicyEntry, PolicyEntry, PolicyEntry], tuple[PolicyEntry, PolicyEntry, PolicyEntry]]
"""By direction (egress, ingress), then by kind (POD, NODE, WORLD): what applies where no policy entry exists."""


@dataclass(frozen=True, slots=True)
class PolicySet:
    """All policies that apply to a subject. Subjects with the same policies share one set."""

    number: int
    defaults: Defaults


_CLOSED: Final = PolicyEntry(0, 0, Verdict.DENY, Reason.POLICY_INCOMPLETE)
CLOSED: Final = PolicySet(0, ((_CLOSED, _CLOSED, _CLOSED), (_CLOSED, _CLOSED, _CLOSED)))
"""The set of subjects whose policies do not fit the maps: everything is denied. It has no policy entries."""


@dataclass(slots=True)
class ChangedKeys:
    """Keys whose entries were added, changed or removed since the installer last called :meth:`clear`."""

    addresses: set[AddressKey] = field(default_factory=set)
    policy_entries: set[PolicyKey] = field(default_factory=set)
    port_entries: set[PortKey] = field(default_factory=set)

    def clear(self) -> None:
        """Forget all keys: the maps equal the desired content again."""
        self.addresses.clear()
        self.policy_entries.clear()
        self.port_entries.clear()


@dataclass(frozen=True, slots=True)
class Desired:
    """What the maps must hold. One compiler owns it and changes it in place."""

    addresses: dict[AddressKey, Identity] = field(default_factory=dict)
    """Identity by prefix; the longest prefix that contains an address applies."""
    policy_sets: dict[str, PolicySet] = field(default_factory=dict)
    """Policy set by the subject's UID."""
    policy_entries: dict[PolicyKey, PolicyEntry] = field(default_factory=dict)
    """Only the entries that differ from their set's default."""
    port_entries: dict[PortKey, PortEntry] = field(default_factory=dict)
    rules: dict[int, tuple[PolicyRef, ...]] = field(default_factory=dict)
    """The policies behind a rule number, as a record names them. No map holds them; the ledger does."""
    changed_keys: ChangedKeys = field(default_factory=ChangedKeys)

    def references(self) -> dict[str, set[int]]:
        """Return the numbers of the ledger in this content, by kind."""
        sets = set(self.policy_sets.values())
        found = [entry for policy_set in sets for kinds in policy_set.defaults for entry in kinds]
        found += self.policy_entries.values()
        return {
            "identity": {identity.number for identity in self.addresses.values()},
            "set": {policy_set.number for policy_set in sets} | {key[0] for key in self.policy_entries},
            "port_list": {entry.port_list for entry in found} | {key[0] for key in self.port_entries},
            "rule": {entry.rule for entry in found} | {entry.rule for entry in self.port_entries.values()},
        }


def host_key(ip: str) -> AddressKey:
    """Return the key of a single address."""
    return packed_address(ip), 128


def family_of(key: AddressKey) -> int:
    """Return 4 or 6: the family whose addresses a prefix contains."""
    return 4 if key[1] >= IPV4_BITS and is_ipv4(key[0]) else 6
