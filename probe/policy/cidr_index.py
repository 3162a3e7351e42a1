"""Finds which CIDR lists contain an address.

Theory of operation, with the blocks A = 10.0.0.0/8 except 10.1.0.0/16, and B = 10.1.2.0/24:

1. Every CIDR and every exception is a prefix: 10.0.0.0/8, 10.1.0.0/16, 10.1.2.0/24. Two prefixes nest or are disjoint.
2. So the blocks that contain a prefix are the blocks of the next wider prefix, less the blocks of which this prefix is
   an exception, plus the blocks whose CIDR it is: /8 is in {A}, /16 in {}, /24 in {B}. An exception is a hole in its
   own block only: B would contain 10.1.2.0/24 even if B were the wider block's exception.
3. The table is built from the shortest prefix to the longest. Afterwards the longest prefix that contains an address
   gives all its blocks: 10.9.9.9 is in {A}, 10.1.9.9 in {}, 10.1.2.3 in {B}.
4. A prefix is in every list that has one of its blocks. If A is in the lists 1 and 2 and B in list 2, then 10.0.0.0/8
   is in {1, 2} and 10.1.2.0/24 in {2}. Which of the blocks it was plays no part: 30,000 blocks that are in the same
   lists have equal values, and so one identity.

The same prefixes, with the same sets of lists, become the entries in ``addresses`` of addresses outside the cluster.
"""

from __future__ import annotations

import socket
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Final

from enrich.model import IPBlock
from enrich.wire.mapped_address import IPV4_BITS
from probe.policy.desired import AddressKey
from probe.policy.lpm import PrefixTable

_Prefix = tuple[int, int]
_IPV4: Final[_Prefix] = (0xFFFF << 32, IPV4_BITS)
"""::ffff:0:0/96, where the maps hold IPv4."""
_NO_LISTS: Final[frozenset[int]] = frozenset()


class CidrIndex:
    """The numbers of CIDR lists, by address. Immutable once it is built."""

    def __init__(self, lists_of: Mapping[IPBlock, frozenset[int]]) -> None:
        """``lists_of`` has the lists that each block is in. A block in no list is a prefix all the same."""
        starting: dict[_Prefix, list[int]] = defaultdict(list)
        excepted: dict[_Prefix, list[int]] = defaultdict(list)
        for number, block in enumerate(lists_of):
            starting[prefix_of(block.cidr)].append(number)
            for exception in block.excepts:
                excepted[prefix_of(exception)].append(number)
        prefixes = {*starting, *excepted}
        if any(length < IPV4_BITS and _contains(address, length, _IPV4[0]) for address, length in prefixes):
            # ::/0 means every IPv6 address and no IPv4 one, but the map holds both families: end it at ::ffff:0:0/96.
            prefixes.add(_IPV4)
        lists = _ListsOfBlocks(tuple(lists_of.values()))
        blocks_at: PrefixTable[frozenset[int]] = PrefixTable()
        self._table: PrefixTable[frozenset[int]] = PrefixTable()
        self.prefixes: dict[AddressKey, frozenset[int]] = {}
        """Every prefix as a key of ``addresses``, with the lists that contain it."""
        for prefix in sorted(prefixes, key=lambda found: found[1]):
            # Prefixes of equal length are disjoint, so this finds only shorter ones.
            wider = _NO_LISTS if prefix == _IPV4 else blocks_at.longest(prefix[0]) or _NO_LISTS
            blocks = wider.difference(excepted.get(prefix, ())).union(starting.get(prefix, ()))
            blocks_at.set(*prefix, blocks)
            self._table.set(*prefix, lists.of(blocks))
            self.prefixes[prefix[0].to_bytes(16, "big"), prefix[1]] = lists.of(blocks)

    def lists_of(self, address: bytes) -> frozenset[int]:
        """Return the lists that contain an address of 16 bytes."""
        return self._table.longest(int.from_bytes(address, "big")) or _NO_LISTS


class _ListsOfBlocks:
    """The lists of several blocks together. Equal results are one object, because there are few and they are large."""

    def __init__(self, lists_of: tuple[frozenset[int], ...]) -> None:
        self._lists_of = lists_of
        self._known: dict[frozenset[frozenset[int]], frozenset[int]] = {}

    def of(self, blocks: frozenset[int]) -> frozenset[int]:
        if len(blocks) == 1:
            return self._lists_of[next(iter(blocks))]
        different = frozenset(self._lists_of[block] for block in blocks)
        found = self._known.get(different)
        if found is None:
            found = self._known[different] = _NO_LISTS.union(*different)
        return found


def lists_of_blocks(lists: Mapping[int, frozenset[IPBlock]]) -> dict[IPBlock, frozenset[int]]:
    """Return the numbers of the lists that each block is in. Blocks that are in the same lists share one set."""
    by_content: dict[frozenset[IPBlock], list[int]] = defaultdict(list)
    for number, blocks in lists.items():
        by_content[blocks].append(number)
    found: dict[IPBlock, frozenset[int]] = {}
    for blocks, numbers in by_content.items():
        joined: dict[frozenset[int], frozenset[int]] = {}
        for block in blocks:
            before = found.get(block, _NO_LISTS)
            after = joined.get(before)
            if after is None:
                after = joined[before] = before.union(numbers)
            found[block] = after
    return found


def hosts_inside(blocks: Iterable[IPBlock], hosts: Iterable[AddressKey]) -> list[AddressKey]:
    """Return the single addresses in ``hosts`` that are inside the CIDR of any of the blocks."""
    by_length: dict[int, set[int]] = defaultdict(set)
    for block in blocks:
        address, length = prefix_of(block.cidr)
        by_length[128 - length].add(address >> (128 - length))
    return [
        key
        for key in hosts
        if any(int.from_bytes(key[0], "big") >> shift in inside for shift, inside in by_length.items())
    ]


def prefix_of(cidr: str) -> _Prefix:
    """Return the 128-bit address and the length that a CIDR, in canonical text, has in the maps."""
    address, _, length = cidr.partition("/")
    if ":" in address:
        return int.from_bytes(socket.inet_pton(socket.AF_INET6, address), "big"), int(length)
    return _IPV4[0] | int.from_bytes(socket.inet_aton(address), "big"), int(length) + IPV4_BITS


def _contains(address: int, length: int, other: int) -> bool:
    return address >> (128 - length) == other >> (128 - length)
