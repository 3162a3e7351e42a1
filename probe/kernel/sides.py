"""Values that are stored by side: the value in force, and the one that the next switch puts in force.

``bpf/judge.h`` explains the two sides. A :class:`SidedTable` mirrors one map whose values consist of two halves, one
for each side, and changes it in two steps around the switch.
"""

from __future__ import annotations

from collections.abc import Mapping

from probe.kernel.maps import Map
from probe.kernel.room import write


class SidedTable:
    """A map of two-sided values. ``absent`` is the half of a key that does not exist on that side."""

    def __init__(self, table: Map, absent: bytes) -> None:
        self._table = table
        self.name = table.name
        self._absent = absent
        self.values = table.items()
        """What the map holds."""

    def in_force(self, key: bytes, side: int) -> bytes:
        """Return the half of a key on a side."""
        value = self.values.get(key)
        if value is None:
            return self._absent
        size = len(self._absent)
        return value[side * size : (side + 1) * size]

    def changed(self, desired: Mapping[bytes, bytes | None]) -> dict[bytes, bytes | None]:
        """Return the entries of ``desired`` (None: to be removed) that the map does not hold on both sides."""
        return {
            key: half
            for key, half in desired.items()
            if self.values.get(key) != (None if half is None else half + half)
        }

    def move(self, changes: Mapping[bytes, bytes | None], side: int) -> None:
        """Before the switch: write the idle side while ``side`` is in force, which keeps its value."""
        for key, half in changes.items():
            old, new = self.in_force(key, side), self._absent if half is None else half
            self._write(key, old + new if side == 0 else new + old)

    def settle(self, changes: Mapping[bytes, bytes | None]) -> None:
        """After the switch, when no program reads the old side any more: make both sides equal, or remove the key."""
        for key, half in changes.items():
            if half is not None:
                self._write(key, half + half)
            elif key in self.values:
                self._table.drop(key)
                del self.values[key]

    def _write(self, key: bytes, value: bytes) -> None:
        if self.values.get(key) != value:
            write(self._table, key, value, len(self.values))
            self.values[key] = value
