"""Decides whether times are corrected for how much a node's clock is ahead of the brokers' clocks.

Times of different nodes are compared when a peer is named: node n1 saw a packet to 10.0.0.9 at 12:00:05, and node n2
saw pod a give that address up at 12:00:03. If the clock of n1 is 4 s ahead, pod a still had it. So each probe measures
its clock against the brokers' (``probe.export.broker_clock``), says so in its batches and address intervals, and
readers subtract the offset before they compare times.

An offset is used if it is large enough to matter and larger than its uncertainty, and not if it is absurd: whoever can
write batches of a node could move its verdicts to any time. Probe and reader decide by the same function, so that a
node's batches and its address intervals are always treated alike.
"""

from __future__ import annotations

from typing import Final

MIN_CORRECTED_NS: Final = 250_000_000
"""A smaller offset is not used. Readers bear with a second between two clocks, and a node's own times, compared with
each other, are exact as long as they are left alone."""
MAX_CORRECTED_NS: Final = 86_400_000_000_000
"""A larger offset is not used: it is a lie, or the clock of a node that needs a person."""

Skew = tuple[int, int]
"""The offset (the node's time minus the brokers'), and how much more or less it may be, in nanoseconds."""


def correction_ns(skew: Skew | None) -> int:
    """Return what is to be subtracted from a node's times."""
    if skew is None:
        return 0
    offset, uncertainty = skew
    is_used = MIN_CORRECTED_NS <= abs(offset) <= MAX_CORRECTED_NS and abs(offset) > uncertainty
    return offset if is_used else 0


def is_absurd(skew: Skew | None) -> bool:
    """Return whether an offset is not used because it is too large."""
    return skew is not None and abs(skew[0]) > MAX_CORRECTED_NS
