"""A model in Python of how the kernel program decides from the maps, to compare the compiled maps with the engine."""

from __future__ import annotations

from typing import NamedTuple

from enrich.policy.matching import Direction
from probe.policy.desired import WORLD, Desired, Identity, host_key


class Outcome(NamedTuple):
    """The kernel's verdict and reason for the first packet of a connection, and the rule number that it reports."""

    verdict: int
    reason: int
    rule: int


def kernel_outcome(desired: Desired, uid: str, direction: Direction, peer_ip: str, protocol: int, port: int) -> Outcome:
    """Decide by the kernel's steps.

    1. The longest prefix of ``addresses`` that contains the peer's address gives its identity.
    2. The policy entry of (policy set, direction, identity), or else the set's default for its kind, applies.
    3. Of the entry's list of port entries, the longest prefix that contains the port decides; without one, the policy
       entry itself decides.
    """
    address = int.from_bytes(host_key(peer_ip)[0], "big")
    identity = Identity(0, WORLD)
    for length in range(128, -1, -1):
        masked = (address >> (128 - length) << (128 - length)).to_bytes(16, "big")
        if (masked, length) in desired.addresses:
            identity = desired.addresses[masked, length]
            break
    policy_set = desired.policy_sets[uid]
    entry = desired.policy_entries.get(
        (policy_set.number, int(direction), identity.number), policy_set.defaults[direction][identity.kind]
    )
    for bits in range(16, -1, -1) if entry.port_list else ():
        port_entry = desired.port_entries.get((entry.port_list, protocol, port >> (16 - bits) << (16 - bits), bits))
        if port_entry is not None:
            return Outcome(*port_entry)
    return Outcome(entry.verdict, entry.reason, entry.rule)
