"""Finds which of the IP blocks in the rules contain an address.

Theory of operation, with the blocks A = 10.0.0.0/8 except 10.1.0.0/16, and B = 10.1.2.0/24:

1. Every CIDR and every exception is a prefix: 10.0.0.0/8, 10.1.0.0/16, 10.1.2.0/24. Two prefixes nest or are disjoint.
2. So the blocks that contain a prefix are the blocks of the next wider prefix, less the blocks of which this prefix is
   an exception, plus the blocks whose CIDR it is: /8 is in {A}, /16 in {}, /24 in {B}. An exception is a hole in its
   own block only: B would contain 10.1.2.0/24 even if B were the wider block's exception.
3. The table is built from the shortest prefix to the longest. Afterwards the longest prefix that contains an address
   gives all its blocks: 10.9.9.9 is in {A}, 10.1.9.9 in {}, 10.1.2.3 in {B}.

The same prefixes, with the same sets of blocks, become the entries in ``addresses`` of addresses outside the cluster.
"""

from __future__ import annotations

import ipaddress
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Final

from enrich.model import IPBlock
from enrich.wire.mapped_address import IPV4_BITS, packed
from probe.policy.desired import AddressKey
from probe.policy.lpm import PrefixTable

_Prefix = tuple[int, int]
_IPV4: Final[_Prefix] = (0xFFFF << 32, IPV4_BITS)
"""::ffff:0:0/96, where the maps hold IPv4."""


class CidrIndex:
    """Peer selector numbers of IP blocks, by address. Immutable once it is built."""

    def __init__(self, blocks: Mapping[IPBlock, int]) -> None:
        starting: dict[_Prefix, set[int]] = defaultdict(set)
        excepted: dict[_Prefix, set[int]] = defaultdict(set)
        for block, number in blocks.items():
            starting[prefix_of(block.cidr)].add(number)
            for exception in block.excepts:
                excepted[prefix_of(exception)].add(number)
        prefixes = {*starting, *excepted}
        if any(length < IPV4_BITS and _contains(address, length, _IPV4[0]) for address, length in prefixes):
            # ::/0 means every IPv6 address and no IPv4 one, but the map holds both families: end it at ::ffff:0:0/96.
            prefixes.add(_IPV4)
        self._table: PrefixTable[frozenset[int]] = PrefixTable()
        for prefix in sorted(prefixes, key=lambda found: found[1]):
            # Prefixes of equal length are disjoint, so this finds only shorter ones.
            wider = frozenset[int]() if prefix == _IPV4 else self._longest(prefix[0])
            self._table.set(*prefix, (wider - excepted.get(prefix, set())) | starting.get(prefix, set()))

    def items(self) -> Iterator[tuple[AddressKey, frozenset[int]]]:
        """Yield every prefix as a key of ``addresses``, with the selectors of the blocks that contain it."""
        for address, length, selectors in self._table.items():
            yield (address.to_bytes(16, "big"), length), selectors

    def at(self, key: AddressKey) -> frozenset[int] | None:
        """Return the selectors of exactly this prefix, or None if no block or exception starts there."""
        return self._table.at(int.from_bytes(key[0], "big"), key[1])

    def selectors_of(self, address: bytes) -> frozenset[int]:
        """Return the selectors of the blocks that contain an address of 16 bytes."""
        return self._longest(int.from_bytes(address, "big"))

    def _longest(self, address: int) -> frozenset[int]:
        return self._table.longest(address) or frozenset()


def prefix_of(cidr: str) -> _Prefix:
    """Return the 128-bit address and the length that a CIDR has in the maps."""
    network = ipaddress.ip_network(cidr)
    length = network.prefixlen + (IPV4_BITS if network.version == 4 else 0)
    return int.from_bytes(packed(network.network_address), "big"), length


def _contains(address: int, length: int, other: int) -> bool:
    return address >> (128 - length) == other >> (128 - length)
