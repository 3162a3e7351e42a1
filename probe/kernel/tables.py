"""The installer's tables of policy: a mirror of each map, which writes differences only."""

from __future__ import annotations

from collections.abc import Container, Mapping

from probe.kernel import entries
from probe.kernel.entries import Peer
from probe.kernel.lpm import PrefixTable
from probe.kernel.maps import Map
from probe.kernel.room import write


class EntryTable:
    """A map whose entries never change under their key: ``policy_entries`` and ``port_entries``."""

    def __init__(self, table: Map) -> None:
        self._table = table
        self.name = table.name
        self.values = table.items()
        """What the map holds."""

    def changed(self, desired: Mapping[bytes, bytes | None]) -> dict[bytes, bytes | None]:
        """Return the entries of ``desired`` (None: to be removed) that the map does not hold."""
        return {key: value for key, value in desired.items() if self.values.get(key) != value}

    def put(self, changes: Mapping[bytes, bytes | None]) -> None:
        """Write what is new."""
        for key, value in changes.items():
            if value is not None and self.values.get(key) != value:
                write(self._table, key, value, len(self.values))
                self.values[key] = value

    def drop(self, changes: Mapping[bytes, bytes | None]) -> None:
        """Remove what is to be removed."""
        for key, value in changes.items():
            if value is None and key in self.values:
                self._table.drop(key)
                del self.values[key]

    def drop_unless(self, used: Container[int], at: slice) -> None:
        """Remove the entries whose number, which is in the key's bytes ``at``, is not in ``used``."""
        unused = [key for key in self.values if int.from_bytes(key[at], "little") not in used]
        self.drop(dict.fromkeys(unused))


class AddressTable:
    """The map ``addresses``: an identity by side for each prefix. ``bpf/judge.h`` explains the sides."""

    def __init__(self, table: Map) -> None:
        self._table = table
        self.name = table.name
        self.values = table.items()
        """What the map holds."""
        self._prefixes = PrefixTable()
        """The side in force, or that of the installation under way."""

    def read_back(self, side: int) -> None:
        """Continue from the side in force. An installation that did not end may have written on the other one."""
        self._prefixes = PrefixTable.from_entries({key: entries.peer_on(old, side) for key, old in self.values.items()})

    def drop_redundant(self, side: int) -> None:
        """Remove the entries that say what the prefix around them says too, on the side in force."""
        for key, value in list(self.values.items()):
            if entries.peer_on(value, side) == self._prefixes.enclosing(key):
                self._prefixes.set(key, None)
                self._table.drop(key)
                del self.values[key]

    def changed(self, desired: Mapping[bytes, Peer | None]) -> dict[bytes, Peer | None]:
        """Return the entries of ``desired`` (None: to be removed) that the map does not hold on both sides."""
        return {key: peer for key, peer in desired.items() if self.values.get(key) != _both(peer)}

    def move(self, changes: Mapping[bytes, Peer | None], side: int) -> None:
        """Before the switch: write the idle side of every address that changes, while ``side`` is in force."""
        before = {
            key: entries.peer_on(self.values[key], side) if key in self.values else self._prefixes.enclosing(key)
            for key in changes
        }
        for key, peer in changes.items():
            self._prefixes.set(key, peer)
        for key, peer in changes.items():
            # A removed address takes the meaning of the longest prefix that contains it.
            old, new = before[key], peer or self._prefixes.enclosing(key)
            self._write(key, entries.peer(old, new) if side == 0 else entries.peer(new, old))

    def settle(self, changes: Mapping[bytes, Peer | None]) -> None:
        """After the switch: make both sides equal, and remove what has disappeared."""
        for key, peer in changes.items():
            if peer is not None:
                self._write(key, entries.peer(peer, peer))
            elif key in self.values:
                self._table.drop(key)
                del self.values[key]

    def _write(self, key: bytes, value: bytes) -> None:
        write(self._table, key, value, len(self.values))
        self.values[key] = value


def _both(peer: Peer | None) -> bytes | None:
    return None if peer is None else entries.peer(peer, peer)
