"""Prefixes and what they stand for: what covers an address or a block where it has no entry of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Self

from probe.kernel.entries import Peer, prefix_of

WORLD: Final[Peer] = (0, 2)
"""Identity and kind of an address that no entry covers."""


class Cover:
    """Address keys by the length of their prefix."""

    def __init__(self) -> None:
        self._by_length: dict[int, dict[int, Peer]] = {}
        self._lengths: list[int] = []

    @classmethod
    def of(cls, peers: Mapping[bytes, Peer]) -> Self:
        """Of entries that are there already."""
        made = cls()
        for key, peer in peers.items():
            made.set(key, peer)
        return made

    def set(self, key: bytes, peer: Peer | None) -> None:
        """Put an entry in, or with None take it out."""
        length, address = prefix_of(key)
        blocks = self._by_length.get(length)
        if blocks is None:
            blocks = self._by_length[length] = {}
            self._lengths = sorted(self._by_length, reverse=True)
        if peer is None:
            blocks.pop(address >> (128 - length), None)
        else:
            blocks[address >> (128 - length)] = peer

    def of_key(self, key: bytes) -> Peer:
        """What the longest shorter prefix says."""
        own, address = prefix_of(key)
        for length in self._lengths:
            if length < own and (found := self._by_length[length].get(address >> (128 - length))):
                return found
        return WORLD
