"""The ranges in which pods have or had addresses: an unknown address there is likely a pod's, too.

A range is the /24 or /64 of a pod's address. A cluster has few, and they recur; but a cluster that gets new nodes for
years has many, and anyone who may publish address intervals can name any. So at most ``MAX_RANGES`` are kept. Those
with an address in memory stay. Of the others, the ones that have been without for longest are forgotten, and then
nothing is said any more of unknown addresses, of any range, before the moment since when the forgotten ones were
without one: they may have been pods'.
"""

from __future__ import annotations

from typing import Final

from enrich.index.changes import ANYBODY, Changes
from enrich.index.intervals import FOREVER, neighbourhood

MAX_RANGES: Final = 65_536
"""Ranges that are remembered."""
RANGE_BYTES: Final = 250
"""What a range takes, about: measured, and rounded up."""


class PodRanges:
    """The ranges of pods' addresses. Not thread safe: writers hold the lock of the index; any thread may read."""

    def __init__(self, changes: Changes, max_ranges: int = MAX_RANGES) -> None:
        self._changes, self._max_ranges = changes, max_ranges
        self._in_use: dict[bytes | str, int] = {}
        """How many addresses are in memory of each range."""
        self._idle: dict[bytes | str, int] = {}
        """Since when the other ranges are without one; those that have been for longest are about the first."""
        self.known_since_ns = -FOREVER
        """Since when every range is known."""

    def __len__(self) -> int:
        return len(self._in_use) + len(self._idle)

    def near_pods(self, ip: str) -> bool:
        """Whether pods have or had addresses in the same /24 or /64."""
        if not ip:
            return False
        near = neighbourhood(ip)
        return near in self._in_use or near in self._idle

    def enter(self, ip: str) -> None:
        """Note that an address comes into memory."""
        near = neighbourhood(ip)
        if near in self._in_use:
            self._in_use[near] += 1
            return
        self._in_use[near] = 1
        if self._idle.pop(near, None) is None:
            self._changes.touch(ANYBODY)
            self._forget_excess()

    def remember(self, ip: str, last: int) -> None:
        """Note that a pod had an address until a moment, although the interval is too old to be kept."""
        near = neighbourhood(ip)
        if near in self._in_use:
            return
        if near not in self._idle:
            self._changes.touch(ANYBODY)
        self._idle[near] = max(last, self._idle.get(near, last))
        self._forget_excess()

    def leave(self, ip: str, now: int) -> None:
        """Note that an address is not in memory any more."""
        near = neighbourhood(ip)
        if self._in_use[near] > 1:
            self._in_use[near] -= 1
            return
        self._idle[near] = now  # first: a reader without the lock must find it in one of them
        del self._in_use[near]

    def _forget_excess(self) -> None:
        """Forget the ranges that have been without an address for longest, many at once."""
        if len(self) <= self._max_ranges:
            return
        for near in list(self._idle)[: len(self) - self._max_ranges + self._max_ranges // 100]:
            self.known_since_ns = max(self.known_since_ns, self._idle[near])
            del self._idle[near]
        self._changes.touch(ANYBODY)
