"""Longest-prefix lookup over the entries of the map ``addresses``, as the kernel's trie does it.

The installer needs it for one question: what does an address or block mean while, or after, it has no entry of its
own? The answer is the entry of the longest shorter prefix that contains it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Self

from probe.kernel.entries import Peer, prefix_of
from probe.policy import lpm

WORLD: Final[Peer] = (0, 2)
"""Identity and kind of an address that no entry contains."""


class PrefixTable:
    """Holds peers under the keys of the map ``addresses``, and finds them by longest prefix as the kernel does."""

    def __init__(self) -> None:
        self._table: lpm.PrefixTable[Peer] = lpm.PrefixTable()

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
        if peer is None:
            self._table.remove(address, length)
        else:
            self._table.set(address, length, peer)

    def enclosing(self, key: bytes) -> Peer:
        """Return the peer of the longest prefix that contains the key's prefix and is shorter."""
        length, address = prefix_of(key)
        return self._table.longest(address, shorter_than=length) or WORLD
