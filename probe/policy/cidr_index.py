"""CIDRs and their exceptions as prefixes, of which the longest one that holds an address says which blocks hold it.

Prefixes nest or are apart. So what holds a prefix is what holds the next one around it, less the blocks of which it is
an exception, and the blocks that it is itself. An exception is a hole in its own block and in no other.
"""

from __future__ import annotations

import ipaddress
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Final

from enrich.model import IPBlock
from probe.policy.desired import host_key

_V4: Final = (0xFFFF << 32, 96)
"""Where IPv4 lies among the 128-bit addresses of the maps (RFC 4291, 2.5.5.2)."""

_Prefix = tuple[int, int]


class CidrIndex:
    """Which of some blocks, each with its term's number, hold an address. Made once, then read."""

    def __init__(self, blocks: Mapping[IPBlock, int]) -> None:
        begin: dict[_Prefix, set[int]] = defaultdict(set)
        end: dict[_Prefix, set[int]] = defaultdict(set)
        for block, term in blocks.items():
            begin[prefix_of(block.cidr)].add(term)
            for hole in block.excepts:
                end[prefix_of(hole)].add(term)
        prefixes = {*begin, *end}
        if any(_masked(_V4[0], length) == address for address, length in prefixes if length < _V4[1]):
            # ::/0 is every IPv6 address and no IPv4 one, but the trie has both: here what holds IPv6 ends.
            prefixes.add(_V4)
        self._terms: dict[_Prefix, frozenset[int]] = {}
        self._lengths: list[int] = []
        for prefix in sorted(prefixes, key=lambda one: one[1]):
            around = frozenset[int]() if prefix == _V4 else self._longest(prefix[0])
            self._terms[prefix] = (around - end.get(prefix, set())) | begin.get(prefix, set())
            if prefix[1] not in self._lengths:
                self._lengths.insert(0, prefix[1])

    def items(self) -> Iterator[tuple[tuple[bytes, int], frozenset[int]]]:
        """The ipcache keys, each with the terms that hold it."""
        for (address, length), terms in self._terms.items():
            yield (address.to_bytes(16, "big"), length), terms

    def at(self, key: tuple[bytes, int]) -> frozenset[int] | None:
        """The terms that hold one of the prefixes; None for any other."""
        return self._terms.get((int.from_bytes(key[0], "big"), key[1]))

    def terms_of(self, address: bytes) -> frozenset[int]:
        """The terms that hold one address of 16 bytes."""
        return self._longest(int.from_bytes(address, "big"))

    def _longest(self, address: int) -> frozenset[int]:
        # While the table is built, shortest first, those of one length are apart: none of them is found for another.
        for length in self._lengths:
            found = self._terms.get((_masked(address, length), length))
            if found is not None:
                return found
        return frozenset()


def prefix_of(cidr: str) -> _Prefix:
    """A CIDR among the 128-bit addresses of the maps: address and length."""
    network = ipaddress.ip_network(cidr)
    address, _ = host_key(str(network.network_address))
    return int.from_bytes(address, "big"), network.prefixlen + (96 if network.version == 4 else 0)


def _masked(address: int, length: int) -> int:
    return address >> (128 - length) << (128 - length)
