"""What an installation will write, and what of a desired state fits the maps."""

from __future__ import annotations

from collections.abc import Collection, Container, Mapping, Sequence
from dataclasses import dataclass

from probe.kernel import endpoints
from probe.kernel.endpoints import Bound
from probe.kernel.entries import Peer
from probe.kernel.room import DoesNotFitError
from probe.policy.desired import AddressKey, Desired


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
