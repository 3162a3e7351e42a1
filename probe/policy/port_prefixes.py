"""Port ranges to prefixes, as an LPM trie wants them. Pure."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def segments(ranges: Iterable[tuple[int, int, T]]) -> Iterator[tuple[int, int, frozenset[T]]]:
    """Overlapping ranges (low, high, who) to disjoint ones, each with everybody whose range holds it, in order."""
    listed = list(ranges)
    edges = sorted({edge for low, high, _ in listed for edge in (low, high + 1)})
    held: tuple[int, int, frozenset[T]] | None = None
    for low, after in itertools.pairwise(edges):
        who = frozenset(owner for first, last, owner in listed if first <= low and after - 1 <= last)
        if held and held[2] == who and held[1] + 1 == low:
            held = (held[0], after - 1, who)
            continue
        if held and held[2]:
            yield held
        held = (low, after - 1, who)
    if held and held[2]:
        yield held


def prefixes(low: int, high: int) -> Iterator[tuple[int, int]]:
    """The fewest (port, bits) that cover low to high, 0 to 65535, each the ports that share the upper ``bits`` bits."""
    while low <= high:
        size = low & -low or 1 << 16
        while size > high - low + 1:
            size >>= 1
        yield low, 16 - (size.bit_length() - 1)
        low += size
