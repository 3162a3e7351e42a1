"""Finds the policy sets that cannot do without an address that does not fit ``addresses``.

An address without an entry of its own has the identity of the longest prefix around it, or else identity 0. That is
harmless for a set that treats both alike, as most sets treat most pods. A set that tells them apart would open or close
the address by mistake, so its subjects must be closed (:mod:`probe.admission`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Final

from enrich.policy.matching import Direction
from enrich.wire.batch import Verdict
from probe.policy.desired import (
    CLOSED,
    NODE,
    POD,
    SERVICE,
    WORLD,
    AddressKey,
    Desired,
    Identity,
    PolicyEntry,
    PolicySet,
)
from probe.policy.lpm import PrefixTable

_RANK: Final = {POD: 0, SERVICE: 1, NODE: 2}
"""What is omitted first. A pod concerns the sets that name it, a Service every set that isolates egress."""


def choose_omitted(desired: Desired, new: Iterable[AddressKey], count: int) -> frozenset[AddressKey]:
    """Return ``count`` of the new addresses, or fewer if there are not as many that may be omitted.

    Prefixes of IP blocks are never among them: the policy sets that need those do not fit themselves. Pods of large
    identities come first, because each further identity may close further sets.
    """
    members: dict[Identity, list[AddressKey]] = {}
    for key in new:
        identity = desired.addresses.get(key, Identity(0, SERVICE))
        if identity.kind != WORLD:
            members.setdefault(identity, []).append(key)
    order = sorted(members, key=lambda one: (_RANK[one.kind], -len(members[one])))
    return frozenset([key for identity in order for key in sorted(members[identity])][:count])


def sets_that_need(desired: Desired, omitted: Collection[AddressKey]) -> set[int]:
    """Return the numbers of the policy sets that treat an omitted address otherwise than the prefix around it."""
    blocks: PrefixTable[Identity] = PrefixTable()
    for (address, length), identity in desired.addresses.items():
        if length != 128:
            blocks.set(int.from_bytes(address, "big"), length, identity)
    pairs = set()
    for key in omitted:
        around = blocks.longest(int.from_bytes(key[0], "big")) or Identity(0, WORLD)
        pairs.add((desired.addresses.get(key, Identity(around.number, SERVICE)), around))
    needing = set()
    for policy_set in set(desired.policy_sets.values()) - {CLOSED}:
        if any(_tells_apart(desired, policy_set, *pair) for pair in pairs):
            needing.add(policy_set.number)
    if any(own.kind in (SERVICE, WORLD) for own, _ in pairs):
        # The program leaves a Service's address to the exit, and would judge it as an address of the world now.
        needing |= _isolating_egress(desired)
    return needing


def _tells_apart(desired: Desired, policy_set: PolicySet, own: Identity, around: Identity) -> bool:
    return any(
        _entry(desired, policy_set, direction, own) != _entry(desired, policy_set, direction, around)
        for direction in Direction
    )


def _entry(desired: Desired, policy_set: PolicySet, direction: Direction, identity: Identity) -> PolicyEntry:
    """Return what the program finds for an identity (``bpf/judge.h``)."""
    entry = desired.policy_entries.get((policy_set.number, int(direction), identity.number))
    return entry or policy_set.defaults[direction][WORLD if identity.kind == SERVICE else identity.kind]


def _isolating_egress(desired: Desired) -> set[int]:
    """Return the sets under which some egress connection is not simply allowed."""
    found = {
        number
        for (number, direction, _), entry in desired.policy_entries.items()
        if direction == Direction.EGRESS and not _is_allow(entry)
    }
    for policy_set in desired.policy_sets.values():
        if not all(map(_is_allow, policy_set.defaults[Direction.EGRESS])):
            found.add(policy_set.number)
    return found - {CLOSED.number}


def _is_allow(entry: PolicyEntry) -> bool:
    return entry.verdict == Verdict.ALLOW and not entry.port_list
