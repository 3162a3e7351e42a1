"""Longest-prefix lookup over the entries of the map ``addresses``, as the kernel's trie does it.

The installer needs it for one question: what does an address or block mean while, or after, it has no entry of its
own? The answer is the entry of the longest shorter prefix that contains it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Self

from probe.kernel.entries import Peer, prefix_of

WORLD: Final[Peer] = (0, 2)
"""Identity and kind of an address that no entry contains."""


class PrefixTable:
    """Peers by prefix, grouped by the prefix's length."""

    def __init__(self) -> None:
        self._by_length: dict[int, dict[int, Peer]] = {}
        self._lengths: list[int] = []
        """The lengths in use, longest first."""

    @classmethod
    def from_entries(cls, peers: Mapping[bytes, Peer]) -> Self:
        """Make a table of existing entries, by address key."""
        table = cls()
        for key, peer in peers.items():
            table.set(key, peer)
        return table

    def set(self, key: bytes, peer: Peer | None) -> None:
        """Insert or overwrite an entry; ``None`` removes it."""
        length, address = prefix_of(key)
        blocks = self._by_length.get(length)
        if blocks is None:
            blocks = self._by_length[length] = {}
            self._lengths = sorted(self._by_length, reverse=True)
        if peer is None:
            blocks.pop(address >> (128 - length), None)
        else:
            blocks[address >> (128 - length)] = peer

    def enclosing(self, key: bytes) -> Peer:
        """Return the peer of the longest prefix that contains the key's prefix and is shorter."""
        own, address = prefix_of(key)
        for length in self._lengths:
            if length < own and (found := self._by_length[length].get(address >> (128 - length))):
                return found
        return WORLD
