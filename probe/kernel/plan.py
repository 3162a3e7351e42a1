"""What an installation will write, and what of a desired state fits the maps."""

from __future__ import annotations

from collections.abc import Collection, Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from enrich.wire.mapped_address import packed_address
from probe.kernel import endpoints
from probe.kernel.endpoints import Bound
from probe.kernel.entries import Peer
from probe.kernel.room import DoesNotFitError
from probe.policy.desired import NODE, AddressKey, Desired, Identity, host_key

_OWN_SHARE: Final = 0.75
"""Part of ``local_addresses`` that the node's own addresses may take where not all fit. The rest is for pods."""


@dataclass(frozen=True, slots=True)
class Installed:
    """The number of entries that one installation wrote or removed, by map, and the epoch in force."""

    addresses: int
    endpoints: int
    policy_entries: int
    port_entries: int
    epoch: int
    switched: tuple[int, int] | None = None
    """The monotonic clock in nanoseconds before and after the switch; None if there was none."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Entries that differ from the installed ones; None: to be removed."""

    desired: Desired
    ends: Mapping[bytes, Bound]
    left_out: Sequence[Bound]
    """Pods that do not fit. They stay absent, and so closed (``not_ready``)."""
    omitted: Collection[AddressKey]
    policy_entries: dict[bytes, bytes | None]
    port_entries: dict[bytes, bytes | None]
    addresses: dict[bytes, Peer | None]
    endpoints: dict[bytes, bytes | None]
    local_addresses: dict[bytes, bytes | None]
    unlisted: int
    """How many of the node's own addresses do not fit ``local_addresses``."""

    def check_capacity(self, installed: Mapping[str, Container[bytes]], used: Mapping[str, int],
                       limits: Mapping[str, int]) -> None:  # fmt: skip
        """Refuse changes that exceed a map: old and new entries exist side by side until the switch.

        The arguments have, by the map's name, the keys that it holds, how many they are and how many fit. Addresses
        are checked last. Raises DoesNotFitError.
        """
        changes: tuple[tuple[str, Mapping[bytes, object]], ...] = (
            ("policy_entries", self.policy_entries),
            ("port_entries", self.port_entries),
            ("addresses", self.addresses),
        )
        for name, changed in changes:
            new = [key for key, value in changed.items() if value is not None and key not in installed[name]]
            if used[name] + len(new) > limits[name]:
                raise DoesNotFitError(name, used[name] + len(new), limits[name], new)


def own_addresses(
    node_addresses: Collection[str], ends: Collection[bytes], known: Collection[bytes], limit: int,
    identities: Mapping[AddressKey, Identity],
) -> frozenset[str]:  # fmt: skip
    """Return which of the addresses that the node holds fit ``local_addresses`` beside the pods' (``ends``).

    kube-proxy in IPVS mode gives the node every address of every Service, and a tenant may give a Service many. So
    these come last, and pods have a part of the map that the node's addresses never take. The programs need the node's
    own to tell who is behind a masquerade, and nothing masquerades behind a Service's address. ``known`` has the keys
    in the map, which take room until the switch; ``identities`` are the policy's.
    """
    if len(known) + len(ends) + len(node_addresses) <= limit:
        return frozenset(node_addresses)  # usually: without parsing them all
    keys = {address: packed_address(address) for address in node_addresses}
    if len({*known, *ends, *keys.values()}) <= limit:
        return frozenset(node_addresses)

    def rank(address: str) -> tuple[bool, bool, str]:
        identity = identities.get(host_key(address))
        return identity is None or identity.kind != NODE, keys[address] not in known, address

    chosen, free = set(), limit - len(known)
    for address in sorted(node_addresses, key=rank)[: int(_OWN_SHARE * limit)]:
        is_new = keys[address] not in known
        if not is_new or free > 0:
            chosen.add(address)
            free -= is_new
    return frozenset(chosen)


def fitting(
    bound: Sequence[Bound], known: Collection[bytes], room: int, local: Collection[bytes], local_room: int
) -> tuple[list[Bound], list[Bound]]:
    """Return the pods that fit ``endpoints`` and ``local_addresses``, and the rest. Those in force come first.

    ``known`` and ``local`` have the keys in the two maps, ``room`` and ``local_room`` say how many more fit. Entries of
    pods that are gone take room until the switch.
    """
    fits, left_out = [], []
    for end in sorted(bound, key=lambda end: endpoints.endpoint_key(end) not in known):
        key = endpoints.endpoint_key(end)
        addresses = sum(address not in local for address in endpoints.local_addresses({key: end}, ()))
        if (key in known or room > 0) and addresses <= local_room:
            fits.append(end)
            room -= key not in known
            local_room -= addresses
        else:
            left_out.append(end)
    return fits, left_out
