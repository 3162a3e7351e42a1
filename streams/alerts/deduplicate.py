"""Recognizes flow records that were delivered twice.

THEORY OF OPERATION

The flows are written at least once: a worker that is killed between writing and committing writes the same records
again, with the same ids, to the same partition. An id is ``<ring>-<number>``. Remembering every id would need memory in
proportion to the traffic, but the numbers of one pod rise, and all records of a pod are in one partition. So the last
number of each pod is enough: after ``r1-7`` and ``r1-9`` of a pod, ``r1-8`` cannot be new, because it would have been
written before ``r1-9``. Records without a pod (the UID is not known) are rare, and their ids are remembered.
"""

from __future__ import annotations

from typing import Any

from streams.alerts.counting import ParsedFlow


class Deduplicator:
    """Remembers what was read from one partition of the flows."""

    def __init__(self, limit: int = 100_000) -> None:
        """``limit`` is the maximum number of pods, and of ids of records without a pod."""
        self._limit = limit
        self._last_number: dict[tuple[str, str], int] = {}
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
        pod = (flow.ring, uid)
        last = self._last_number.pop(pod, -1)
        # Popped and set again: the dictionary stays ordered by last use.
        self._last_number[pod] = max(last, flow.number)
        _evict(self._last_number, self._limit)
        return flow.number <= last


def _evict(entries: dict[Any, Any], limit: int) -> None:
    """Evict the oldest tenth if there are more than ``limit`` entries."""
    if len(entries) > limit:
        for key in list(entries)[: limit // 10]:
            del entries[key]
