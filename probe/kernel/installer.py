"""Install compiled policy into the kernel's maps: write the differences only, and switch to them by one word.

THEORY OF OPERATION. ``bpf/judge.h`` explains the two sides: the parity of the epoch is the side that every packet
reads. An installation while epoch 6 is in force (side 0):

1. Refuse if the old and new entries together exceed a map. Nothing has been written then.
2. Write new port entries, then new policy entries. They are immutable, and nothing refers to them yet.
3. Write side 1 of every address and endpoint that changes. Side 0 keeps its meaning: a new address gets, on side 0,
   the identity of the prefix that contained it so far; a new endpoint is absent on side 0, where its pod is closed; an
   interface that was bound to another pod keeps that pod's policy; a removed endpoint is absent on side 1 only.
4. Write epoch 7. From here on every packet is judged by the new state.
5. Wait until no program run that read epoch 6 is in progress.
6. Copy side 1 to side 0, and remove addresses and endpoints that have disappeared.
7. Wait once more, then remove port and policy entries that nothing refers to any longer.

A probe that is killed between any two steps leaves the side in force complete. The next one reads the maps back,
compares everything with the desired state, and continues; after that it looks at changed keys only, until an
installation fails.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from probe.kernel import bpf, endpoints, entries
from probe.kernel.endpoints import Bound, Surroundings
from probe.kernel.entries import Peer
from probe.kernel.layout import (
    ENDPOINT_SIDES,
    LOCAL_NONE,
    PEER,
    POLICY_ENTRY,
    POLICY_KEY,
    PORT_ENTRY,
    PORT_KEY,
    Array,
    Config,
)
from probe.kernel.lpm import PrefixTable
from probe.kernel.maps import Map, Maps
from probe.kernel.sides import SidedTable
from probe.policy.desired import Desired, PolicySet
from probe.policy.service_addresses import ServiceAddresses

_SIZED_MAPS = ("policy_entries", "port_entries", "addresses", "endpoints")
"""The policy maps. The setting that gives a map's size has the map's name."""


class InstallError(RuntimeError):
    """The desired state does not fit the maps. What was in force stays in force; the message names the setting."""


@dataclass(frozen=True, slots=True)
class Installed:
    """The number of entries that one installation wrote or removed, by map, and the epoch in force."""

    addresses: int
    endpoints: int
    policy_entries: int
    port_entries: int
    epoch: int


@dataclass(frozen=True, slots=True)
class _Changes:
    """Entries that differ from the installed ones; None: to be removed."""

    policy_entries: dict[bytes, bytes | None]
    port_entries: dict[bytes, bytes | None]
    addresses: dict[bytes, Peer | None]


class Installer:
    """The only writer of the policy maps. It must be used by one thread."""

    def __init__(self, maps: Maps) -> None:
        self._maps = maps
        self._policy_entries = maps["policy_entries"].items()
        self._port_entries = maps["port_entries"].items()
        self._addresses = maps["addresses"].items()
        self._endpoints = SidedTable(maps["endpoints"], endpoints.ABSENT)
        self._local_addresses = SidedTable(maps["local_addresses"], LOCAL_NONE.to_bytes(4, "little"))
        self._services = ServiceAddresses()
        self._prefixes = PrefixTable()
        self._made_of: dict[bytes, tuple[Bound, PolicySet]] = {}
        """What each endpoint's value was made of, to skip those that do not change."""
        self._installed: Desired | None = None
        """The state that the maps equal except for its changed keys; None if everything must be compared."""

    @property
    def endpoints(self) -> dict[int, int]:
        """Interface index to endpoint number, for the state in force."""
        side = self._maps.config(Config.EPOCH) & 1
        numbers = {key: endpoints.number_of(self._endpoints.in_force(key, side)) for key in self._endpoints.values}
        return {int.from_bytes(key, "little"): number for key, number in numbers.items() if number}

    def numbers(self) -> dict[str, int]:
        """Return the highest number of each kind in the maps, so that a ledger that was lost does not reuse one."""
        policy_keys = _array(self._policy_entries, POLICY_KEY)
        policies = _array(self._policy_entries.values(), POLICY_ENTRY)
        peers = _array(self._addresses.values(), PEER)
        ends = _array(self._endpoints.values.values(), ENDPOINT_SIDES)["side"]
        port_keys = _array(self._port_entries, PORT_KEY)
        ports = _array(self._port_entries.values(), PORT_ENTRY)
        port_lists = (port_keys["port_list"], policies["port_list"], ends["defaults"]["port_list"])
        return {
            "identity": _highest(policy_keys["identity"], peers["identity"]),
            "set": _highest(policy_keys["set"], ends["set"]),
            "port_list": _highest(*port_lists),
            "rule": _highest(policies["rule"], ports["rule"], ends["defaults"]["rule"]),
            "endpoint": _highest(ends["number"]),
        }

    def usage(self) -> dict[str, tuple[int, int]]:
        """Return the number of entries and the capacity of each policy map."""
        return {name: (len(table), self._maps[name].max_entries) for name, table in self._tables()}

    def apply(
        self,
        desired: Desired,
        bound: Iterable[Bound],
        now_ns: int,
        surroundings: Surroundings | None = None,
        switched: Callable[[], None] | None = None,
    ) -> Installed:
        """Install ``desired`` for the pods in ``bound``. Raises InstallError before anything is written.

        ``switched`` is called as soon as the new state is in force, before the old one is removed.
        """
        epoch = self._maps.config(Config.EPOCH)
        side = epoch & 1
        whole = desired is not self._installed
        self._installed = None
        if whole:
            in_force = {key: entries.peer_on(value, side) for key, value in self._addresses.items()}
            self._prefixes = PrefixTable.from_entries(in_force)
            self._made_of.clear()
        around = surroundings or Surroundings()
        ends = {endpoints.endpoint_key(end): end for end in bound}
        changes = self._changes(desired, around.services, whole=whole)
        moved = self._endpoint_changes(ends, desired.policy_sets, side, now_ns)
        local = self._local_changes(ends, around.node)
        retired = self._retired(moved, side) - {end.number for end in ends.values()}
        self._check_capacity(changes, moved)

        _put(self._maps["port_entries"], self._port_entries, changes.port_entries)
        _put(self._maps["policy_entries"], self._policy_entries, changes.policy_entries)
        self._move_addresses(changes.addresses, side)
        self._local_addresses.move(local, side)
        self._endpoints.move(moved, side)
        if changes.addresses or local or moved:
            epoch += 1
            self._maps.configure(Config.EPOCH, epoch)
            if switched:
                switched()
            bpf.wait_for_programs()
            self._settle_addresses(changes.addresses)
            self._local_addresses.settle(local)
            self._endpoints.settle(moved)
        self._remove_unused(changes)
        for number in retired:
            self._maps["budgets"].drop(number.to_bytes(4, "little"))
        self._made_of = {key: (end, desired.policy_sets[end.uid]) for key, end in ends.items()}
        desired.changed_keys.clear()
        self._installed = desired
        return Installed(
            len(changes.addresses), len(moved), len(changes.policy_entries), len(changes.port_entries), epoch
        )

    def _tables(self) -> Iterable[tuple[str, dict[bytes, bytes]]]:
        tables = (self._policy_entries, self._port_entries, self._addresses, self._endpoints.values)
        return zip(_SIZED_MAPS, tables, strict=True)

    def _changes(self, desired: Desired, services: Iterable[str], *, whole: bool) -> _Changes:
        """Compare the desired entries with the installed ones: all of them, or those of changed keys."""
        changed_keys = desired.changed_keys
        policy_entries: dict[bytes, bytes | None] = dict.fromkeys(self._policy_entries) if whole else {}
        for policy_key in desired.policy_entries if whole else changed_keys.policy_entries:
            policy = desired.policy_entries.get(policy_key)
            packed = None if policy is None else entries.policy_entry(*policy)
            policy_entries[entries.policy_key(*policy_key)] = packed
        port_entries: dict[bytes, bytes | None] = dict.fromkeys(self._port_entries) if whole else {}
        for port_key in desired.port_entries if whole else changed_keys.port_entries:
            port = desired.port_entries.get(port_key)
            port_entries[entries.port_key(*port_key)] = None if port is None else entries.port_entry(*port)
        peers: dict[bytes, Peer | None] = dict.fromkeys(self._addresses) if whole else {}
        for address in desired.addresses if whole else changed_keys.addresses:
            identity = desired.addresses.get(address)
            peers[entries.address_key(*address)] = None if identity is None else (identity.number, identity.kind)
        for address, identity in self._services.changed_entries(desired, services, whole=whole).items():
            peers[entries.address_key(*address)] = None if identity is None else (identity.number, identity.kind)
        return _Changes(
            {key: value for key, value in policy_entries.items() if self._policy_entries.get(key) != value},
            {key: value for key, value in port_entries.items() if self._port_entries.get(key) != value},
            {key: peer for key, peer in peers.items() if self._addresses.get(key) != _both(peer)},
        )

    def _check_capacity(self, changes: _Changes, moved: Mapping[bytes, bytes | None]) -> None:
        """Refuse changes that exceed a map: old and new entries exist side by side until the switch."""
        changed: tuple[Mapping[bytes, object], ...] = (
            changes.policy_entries,
            changes.port_entries,
            changes.addresses,
            moved,
        )
        for (name, table), updates in zip(self._tables(), changed, strict=True):
            limit = self._maps[name].max_entries
            needed = len(table) + sum(value is not None and key not in table for key, value in updates.items())
            if needed > limit:
                raise InstallError(
                    f"the map {name} holds {limit} entries, and policy needs {needed}: raise WEIR_{name.upper()}"
                )

    def _move_addresses(self, changes: Mapping[bytes, Peer | None], side: int) -> None:
        """Write the idle side of every address that changes."""
        before = {
            key: entries.peer_on(self._addresses[key], side)
            if key in self._addresses
            else self._prefixes.enclosing(key)
            for key in changes
        }
        for key, peer in changes.items():
            self._prefixes.set(key, peer)
        for key, peer in changes.items():
            # A removed address takes the meaning of the longest prefix that contains it.
            old, new = before[key], peer or self._prefixes.enclosing(key)
            self._write_address(key, entries.peer(old, new) if side == 0 else entries.peer(new, old))

    def _settle_addresses(self, changes: Mapping[bytes, Peer | None]) -> None:
        """After the switch: make both sides equal, and remove what has disappeared."""
        for key, peer in changes.items():
            if peer is not None:
                self._write_address(key, entries.peer(peer, peer))
            elif key in self._addresses:
                self._maps["addresses"].drop(key)
                del self._addresses[key]

    def _write_address(self, key: bytes, value: bytes) -> None:
        self._maps["addresses"].set(key, value)
        self._addresses[key] = value

    def _endpoint_changes(
        self, ends: Mapping[bytes, Bound], sets: Mapping[str, PolicySet], side: int, now_ns: int
    ) -> dict[bytes, bytes | None]:
        """Compare the endpoints with the installed ones; None: the interface is gone, or has no pod any more."""
        desired: dict[bytes, bytes | None] = dict.fromkeys(self._endpoints.values.keys() - ends.keys())
        for key, end in ends.items():
            if key not in self._endpoints.values or self._made_of.get(key) != (end, sets[end.uid]):
                desired[key] = endpoints.pack(end, sets[end.uid], self._endpoints.in_force(key, side), now_ns)
        return self._endpoints.changed(desired)

    def _local_changes(self, ends: Mapping[bytes, Bound], node: Iterable[str]) -> dict[bytes, bytes | None]:
        local = endpoints.local_addresses(ends, node)
        desired: dict[bytes, bytes | None] = dict.fromkeys(self._local_addresses.values.keys() - local.keys())
        desired |= {key: index.to_bytes(4, "little") for key, index in local.items()}
        return self._local_addresses.changed(desired)

    def _retired(self, changes: Mapping[bytes, bytes | None], side: int) -> set[int]:
        """Return the numbers of endpoints that the changes replace or remove; another interface may still have one."""
        pairs = ((endpoints.number_of(self._endpoints.in_force(key, side)), half) for key, half in changes.items())
        return {old for old, half in pairs if old and (half is None or endpoints.number_of(half) != old)}

    def _remove_unused(self, changes: _Changes) -> None:
        """Remove port and policy entries of sets that are not in force any longer."""
        if all(value is not None for value in (*changes.policy_entries.values(), *changes.port_entries.values())):
            return
        bpf.wait_for_programs()
        _drop(self._maps["policy_entries"], self._policy_entries, changes.policy_entries)
        _drop(self._maps["port_entries"], self._port_entries, changes.port_entries)


def _put(table: Map, installed: dict[bytes, bytes], changes: Mapping[bytes, bytes | None]) -> None:
    for key, value in changes.items():
        if value is not None and installed.get(key) != value:
            table.set(key, value)
            installed[key] = value


def _drop(table: Map, installed: dict[bytes, bytes], changes: Mapping[bytes, bytes | None]) -> None:
    for key, value in changes.items():
        if value is None and key in installed:
            table.drop(key)
            del installed[key]


def _both(peer: Peer | None) -> bytes | None:
    return None if peer is None else entries.peer(peer, peer)


def _array(values: Iterable[bytes], dtype: np.dtype[np.void]) -> Array:
    """Return entries as an array; one of zeros if there are none."""
    return np.frombuffer(b"".join(values) or bytes(dtype.itemsize), dtype)


def _highest(*numbers: Array) -> int:
    return int(max(array.max() for array in numbers))
