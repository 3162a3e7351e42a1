"""Small numbers for the parts of verdicts, equal where no condition can tell the parts apart.

:mod:`streams.routes.classifier` says what they are for. All functions here work on whole columns.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Final, Generic, TypeVar

import numpy as np

from enrich.render.interning import Int64Array
from enrich.wire.mapped_address import packed
from streams.matching import sampling
from streams.matching.matcher import Network

MAX_CACHED: Final = 200_000
"""Entries of a cache. It is emptied when it has more."""
_MAX_TABLE_CELLS: Final = 1 << 22
K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class ClassTable(Generic[K, V]):
    """The class of each value of a part of verdicts. Values with equal answers to all conditions have one class."""

    def __init__(self, answers_of: Callable[[V], Hashable]) -> None:
        self._answers_of = answers_of
        self._numbers: dict[Hashable, int] = {}
        self._known: dict[K, int] = {}

    def of(self, keys: Sequence[K], value_of: Callable[[K], V]) -> Int64Array:
        """Return the class of each value. Equal keys stand for equal values."""
        if len(self._known) > MAX_CACHED:
            self._known.clear()
        for key in set(keys) - self._known.keys():
            answers = self._answers_of(value_of(key))
            self._known[key] = self._numbers.setdefault(answers, len(self._numbers))
        return np.fromiter(map(self._known.__getitem__, keys), np.int64, len(keys))


class PairTable:
    """Numbers pairs of numbers. Pairs of small numbers are looked up in an array, all others in a dict."""

    def __init__(self) -> None:
        self._numbers: dict[int, int] = {}
        self._table = np.full((1, 1), -1, np.int64)

    def __len__(self) -> int:
        return len(self._numbers)

    def of(self, left: Int64Array, right: Int64Array) -> Int64Array:
        """Return the number of each pair."""
        height, width = int(left.max()) + 1, int(right.max()) + 1
        if height > self._table.shape[0] or width > self._table.shape[1]:
            height, width = (
                _power_of_two(max(sizes)) for sizes in zip((height, width), self._table.shape, strict=True)
            )
            if height * width > _MAX_TABLE_CELLS:
                return self._each(left, right)
            self._table = np.full((height, width), -1, np.int64)
        found: Int64Array = self._table[left, right]
        new = found < 0
        if new.any():
            found[new] = self._table[left[new], right[new]] = self._each(left[new], right[new])
        return found

    def _each(self, left: Int64Array, right: Int64Array) -> Int64Array:
        numbers = self._numbers
        pairs = (left << 32 | right).tolist()
        return np.array([numbers.setdefault(pair, len(numbers)) for pair in pairs], np.int64)


def _power_of_two(size: int) -> int:
    """Return the smallest power of two that is not below ``size``."""
    return 1 << (size - 1).bit_length()


class Addresses:
    """A column of addresses as two numbers each. IPv4 is v4-mapped (::ffff:0:0/96) and is in no IPv6 network."""

    def __init__(self, addresses: np.ndarray[Any, Any]) -> None:
        words = sampling.words(addresses)
        self.high, self.low = words[:, 0], words[:, 1]
        self.known = (self.high | self.low) != 0
        mapped = (self.high == 0) & (self.low & _MAPPED_MASK == _MAPPED_PREFIX)
        self.of_version = {4: mapped, 6: ~mapped}


class Networks:
    """Which of some networks an address is in, a bit each."""

    def __init__(self, networks: Sequence[Network]) -> None:
        self._networks = [
            (1 << bit, network.version, *_words(network.netmask), *_words(network.network_address))
            for bit, network in enumerate(networks)
        ]

    def of(self, addresses: Addresses) -> Int64Array:
        """Return the bits of each address. An address that is not known is in no network."""
        bits = np.zeros(len(addresses.low), np.int64)
        for bit, version, high_mask, low_mask, high, low in self._networks:
            inside = addresses.of_version[version] & (addresses.low & low_mask == low)
            if version == 6:
                inside &= addresses.high & high_mask == high
            bits |= (inside & addresses.known) * np.int64(bit)
        return bits


def _words(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> tuple[np.uint64, np.uint64]:
    """Return the two numbers of an address or a mask. IPv4 stands behind the v4-mapped prefix; the prefix of a mask is
    not compared, because the version was."""
    high, low = np.frombuffer(packed(address), "<u8")
    return high, low


_MAPPED_PREFIX: Final = _words(ipaddress.IPv4Address(0))[1]
_MAPPED_MASK: Final = np.frombuffer(b"\xff\xff\xff\xff\0\0\0\0", "<u8")[0]


def port_classes(ranges: Sequence[tuple[int, int]]) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Return for each port the number of its stretch, from 1. Every range begins and ends between two stretches."""
    edges = np.zeros(65537, np.int64)
    for first, last in ranges:
        edges[first] = edges[last + 1] = 1
    return 1 + np.cumsum(edges[:65536])
