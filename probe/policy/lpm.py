"""Longest-prefix match over 128-bit addresses, as the kernel's LPM trie does it (``BPF_MAP_TYPE_LPM_TRIE``).

The table keeps one dict per prefix length. A lookup tries the lengths that exist, longest first, so it costs as many
dict lookups as there are different lengths: in practice fewer than ten.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, TypeVar

V = TypeVar("V")


class PrefixTable(Generic[V]):
    """Values by prefix. A prefix is the address as an integer, with its host bits zero, and a length of 0 to 128."""

    def __init__(self) -> None:
        self._by_length: dict[int, dict[int, V]] = {}
        self._lengths: list[int] = []

    def set(self, address: int, length: int, value: V) -> None:
        """Store the value of one prefix, in place of an earlier one."""
        table = self._by_length.get(length)
        if table is None:
            table = self._by_length[length] = {}
            self._lengths = sorted(self._by_length, reverse=True)
        table[address >> (128 - length)] = value

    def remove(self, address: int, length: int) -> None:
        """Remove one prefix, if it is there."""
        table = self._by_length.get(length)
        if table is not None:
            table.pop(address >> (128 - length), None)

    def at(self, address: int, length: int) -> V | None:
        """Return the value of exactly this prefix, or None."""
        table = self._by_length.get(length)
        return None if table is None else table.get(address >> (128 - length))

    def longest(self, address: int, shorter_than: int = 129) -> V | None:
        """Return the value of the longest prefix that contains the address and is shorter than a length, or None."""
        for length in self._lengths:
            if length < shorter_than:
                value = self._by_length[length].get(address >> (128 - length))
                if value is not None:
                    return value
        return None

    def items(self) -> Iterator[tuple[int, int, V]]:
        """Yield (address, length, value) of every prefix."""
        for length, table in self._by_length.items():
            for bits, value in table.items():
                yield bits << (128 - length), length, value
