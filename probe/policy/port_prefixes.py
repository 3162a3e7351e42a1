"""Port ranges to prefixes, as an LPM trie wants them. Pure."""

from __future__ import annotations

from collections.abc import Iterator


def port_prefixes(low: int, high: int) -> Iterator[tuple[int, int]]:
    """The fewest (port, bits) that cover low to high, 0 to 65535, each the ports that share the upper ``bits`` bits."""
    while low <= high:
        size = low & -low or 1 << 16
        while size > high - low + 1:
            size >>= 1
        yield low, 16 - (size.bit_length() - 1)
        low += size
