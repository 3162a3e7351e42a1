"""Open intervals that probes have published, of pods that the watch does not know.

A probe that has died leaves an interval open, and whoever may write to their topic can publish any number of pods that
never were. So such an interval is believed for a minute; but the minute has no end while the API server is away,
because then the watch knows no new pod. So a node has a limit, and the index has one: the interval that was published
first is given up. Its pod may live on, unknown. Until the watch knows every pod that there was then, a pod address
without a known owner is ambiguous, as if the index were not complete.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from enrich.index.ended_intervals import EndedIntervals
from enrich.index.intervals import FOREVER, SECOND

MAX_UNCONFIRMED_OF_NODE: Final = 2_000
"""More than a node starts while the API server is away for hours."""
MAX_UNCONFIRMED: Final = 20_000
"""Each takes as much memory as one that has ended."""
_BELIEVED_NS: Final = 60 * SECOND


class UnconfirmedIntervals(EndedIntervals):
    """These intervals, of all nodes, by when they were published. Writers hold the lock of the index."""

    def __init__(self) -> None:
        super().__init__(MAX_UNCONFIRMED_OF_NODE, MAX_UNCONFIRMED)
        self._given_up_ns: int | None = None
        """When one was given up last, until the watch knows every pod that there was then."""
        self._unsure_until_ns = -FOREVER

    def give_up(self, node: str, now: int) -> Iterator[tuple[str, str]]:
        """Drop what is too much, after an interval of ``node`` was noted."""
        for key in self.excess(node):
            self._given_up_ns = now
            yield key

    def due(self, now: int, watched_until: int) -> list[tuple[str, str]]:
        """Drop and return those whose time is over. ``watched_until``: until when the watch has every change."""
        limit = min(now, watched_until) - _BELIEVED_NS
        if self._given_up_ns is not None:
            self._unsure_until_ns = now
            self._given_up_ns = self._given_up_ns if self._given_up_ns >= limit else None
        found = self.expired(limit)
        for key in found:
            self.discard(key)
        return found

    def unsure_until_ns(self, now: int) -> int:
        """Return the moment before which a pod that was given up may have had any address."""
        return now if self._given_up_ns is not None else self._unsure_until_ns
