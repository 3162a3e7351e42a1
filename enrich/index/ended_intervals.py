"""Chooses which intervals that have ended are kept, and which are dropped because there are too many.

A probe publishes the intervals of its node's pods, and whoever may write to their topic can publish any number. So a
node has a limit, and the index has one. The interval of the node that ended first is dropped; at the index's limit,
that of the node that has most. For moments before the end of a dropped interval, a pod address without a known owner is
ambiguous, as if the index had not been complete then. Open intervals do not count, nor what the watch has observed.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from typing import Final

from enrich.index.intervals import FOREVER

MAX_ENDED: Final = 100_000
"""Intervals that have ended, of all nodes together."""
MAX_ENDED_OF_NODE: Final = 20_000
"""Of one node: five pods that end in each second of an hour."""
ENDED_BYTES: Final = 1_450
"""What an interval and its pod take, about: measured, and rounded up."""
_MAX_OUTDATED: Final = 1_000

_Key = tuple[str, str]
"""The UID of a pod, and an address."""


class _OfNode:
    """The intervals of one node, by their end."""

    def __init__(self) -> None:
        self.ends: dict[_Key, int] = {}
        self._heap: list[tuple[int, _Key]] = []
        """End and key of each interval, and entries that are outdated."""

    def add(self, key: _Key, last: int) -> None:
        self.ends[key] = last
        heapq.heappush(self._heap, (last, key))
        if len(self._heap) > 2 * len(self.ends) + _MAX_OUTDATED:
            self._heap = [(end, one) for one, end in self.ends.items()]
            heapq.heapify(self._heap)

    def first(self) -> tuple[_Key, int]:
        """Return the one that ended first."""
        while True:
            last, key = self._heap[0]
            if self.ends.get(key) == last:
                return key, last
            heapq.heappop(self._heap)


class EndedIntervals:
    """The intervals that have ended, of all nodes. Not thread safe: writers hold the lock of the index."""

    def __init__(self, max_of_node: int = MAX_ENDED_OF_NODE, max_ended: int = MAX_ENDED) -> None:
        self.max_of_node, self.max_ended = max_of_node, max_ended
        self.is_known: Callable[[str], bool] = lambda _: True
        """Whether there is a node of this name. All others together have the limit of one: a sender can name many."""
        self._noted: dict[_Key, tuple[str, int]] = {}
        """The node, and when it was noted; the oldest first."""
        self._by_node: dict[str, _OfNode] = {}
        self.dropped = {"node": 0, "index": 0}
        """How many were dropped, by the limit that was reached."""
        self.dropped_until_ns = -FOREVER
        """The latest end of a dropped interval."""

    def __len__(self) -> int:
        return len(self._noted)

    def note(self, node: str, key: _Key, last: int, now: int) -> None:
        """Note that an interval has ended."""
        self.discard(key)
        node = node if self.is_known(node) else ""
        self._noted[key] = node, now
        # No interval has ended in the future.
        self._by_node.setdefault(node, _OfNode()).add(key, min(last, now))

    def discard(self, key: _Key) -> None:
        """Note that an interval is open again, or that it is not in memory any more."""
        noted = self._noted.pop(key, None)
        if noted is not None:
            del self._by_node[noted[0]].ends[key]
            if not self._by_node[noted[0]].ends:
                del self._by_node[noted[0]]

    def expired(self, limit: int) -> list[_Key]:
        """Return those that were noted before a moment."""
        found = []
        for key, (_, noted) in self._noted.items():
            if noted >= limit:
                break
            found.append(key)
        return found

    def excess(self, node: str) -> Iterator[_Key]:
        """Drop what is too much, after an interval of ``node`` was noted."""
        node = node if self.is_known(node) else ""
        while node in self._by_node and len(self._by_node[node].ends) > self.max_of_node:
            yield self._drop_first(node, "node")
        if len(self._noted) > self.max_ended:
            # Many at once, because it takes a look at every node.
            most = [(-len(one.ends), name) for name, one in self._by_node.items()]
            heapq.heapify(most)
            while len(self._noted) > self.max_ended - self.max_ended // 100:
                count, name = most[0]
                yield self._drop_first(name, "index")
                heapq.heapreplace(most, (count + 1, name))

    def _drop_first(self, node: str, limit: str) -> _Key:
        key, last = self._by_node[node].first()
        self.dropped[limit] += 1
        self.dropped_until_ns = max(self.dropped_until_ns, last)
        self.discard(key)
        return key
