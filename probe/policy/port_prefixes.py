"""Splits port ranges into the prefixes that an LPM trie needs."""

from __future__ import annotations

from collections.abc import Iterator


def port_prefixes(low: int, high: int) -> Iterator[tuple[int, int]]:
    """Yield the fewest (port, bits) that together contain the ports ``low`` to ``high`` and no others.

    ``bits`` (0 to 16) is how many upper bits of ``port`` are fixed: 8000 to 8080 is (8000, 10), (8064, 12), (8080, 16).
    """
    while low <= high:
        # The largest block of ports that is aligned to its own size and starts at `low`.
        size = low & -low or 1 << 16
        while size > high - low + 1:
            size >>= 1
        yield low, 16 - (size.bit_length() - 1)
        low += size
