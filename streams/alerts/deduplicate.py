"""Recognizes flow records that were delivered twice.

THEORY OF OPERATION

The flows are written at least once: a worker that is killed between writing and committing writes the same records
again, with the same ids, to the same partition. An id is ``<ring>-<number>``, the numbers of one pod rise, and all
records of a pod are in one partition. Yet they are not always in order: if a broker refuses one record of a batch for
its content, it refuses its neighbours with it. Those are sent again one by one, and later records of the same pods may
be there already. Say pod A has ``r1-7``, refused because of a neighbour, and ``r1-9``: the topic has 9, then 7, and 7
was never seen before.

So the numbers themselves are remembered for each ring and pod. When they are too many, the lowest half is forgotten,
and everything up to the highest forgotten number counts as seen. That is exact as long as fewer records of a pod
overtake one that was refused than are remembered; a worker has a bounded number of verdicts in flight. Records without
a pod (the UID is not known) are rare, and their ids are remembered.
"""

from __future__ import annotations

from typing import Any, Final

from streams.alerts.counting import ParsedFlow

_MAX_OF_POD: Final = 10_000
"""One pod's flood does not make the numbers of other pods forgotten before it has forgotten so many of its own."""


class _Pod:
    """The numbers of one pod."""

    __slots__ = ("forgotten", "numbers")

    def __init__(self) -> None:
        self.numbers: set[int] = set()
        self.forgotten = -1
        """The highest number that was forgotten."""

    def forget_half(self) -> int:
        """Forget the lower half of the numbers, and return how many those are."""
        lowest = sorted(self.numbers)[: (len(self.numbers) + 1) // 2]
        self.numbers.difference_update(lowest)
        self.forgotten = lowest[-1]
        return len(lowest)


class Deduplicator:
    """Remembers what was read from one partition of the flows."""

    def __init__(self, limit: int = 100_000) -> None:
        """``limit`` is the maximum number of pods, of their numbers together, and of ids of records without a pod."""
        self._limit = limit
        self._pods: dict[tuple[str, str], _Pod] = {}
        self._remembered = 0
        self._ids: dict[str, None] = {}

    def is_repeat(self, flow: ParsedFlow) -> bool:
        """Return whether the record was seen before, and remember it."""
        uid = flow.record_class.pod_uid
        if not uid:
            name = f"{flow.ring}-{flow.number}"
            known = name in self._ids
            self._ids[name] = None
            _evict(self._ids, self._limit)
            return known
        key = (flow.ring, uid)
        # Popped and set again: the dictionary stays ordered by last use.
        pod = self._pods[key] = self._pods.pop(key) if key in self._pods else _Pod()
        if flow.number <= pod.forgotten or flow.number in pod.numbers:
            return True
        pod.numbers.add(flow.number)
        self._remembered += 1
        if len(pod.numbers) > _MAX_OF_POD:
            self._remembered -= pod.forget_half()
        if self._remembered > self._limit:
            self._forget_some()
        if len(self._pods) > self._limit:
            for evicted in _evict(self._pods, self._limit):
                self._remembered -= len(evicted.numbers)
        return False

    def _forget_some(self) -> None:
        """Forget numbers of the pods that have most of them, until a tenth of the limit is free."""
        for pod in sorted(self._pods.values(), key=lambda one: -len(one.numbers)):
            if self._remembered <= self._limit - self._limit // 10:
                return
            if pod.numbers:
                self._remembered -= pod.forget_half()


def _evict(entries: dict[Any, Any], limit: int) -> list[Any]:
    """Evict the oldest tenth if there are more than ``limit`` entries, and return their values."""
    return [entries.pop(key) for key in list(entries)[: limit // 10]] if len(entries) > limit else []
