"""Remembers ReplicaSets and Jobs that are gone, because their pods and the verdicts about them may outlive them.

A CronJob's Jobs are deleted by the dozen, and a verdict may be read an hour late. Without its Job, nothing leads from
the pod to the CronJob. Workloads are found by UID, so that one of the same name that was made later is not taken for
them.
"""

from __future__ import annotations

from typing import Final

from enrich.model import Object, Workload

_LIMIT: Final = 50_000
"""So many are remembered, the ones that went last."""


class GoneWorkloads:
    """The workloads that are gone. One thread at a time adds; any thread may look up."""

    def __init__(self, limit: int = _LIMIT) -> None:
        self._limit = limit
        self._by_uid: dict[str, Workload] = {}

    def note(self, before: Object | None, after: Object | None) -> None:
        """Note a change; what was deleted or replaced by another object of its name is remembered."""
        if not isinstance(before, Workload) or before.owner is None or not before.uid:
            return
        if isinstance(after, Workload) and after.uid == before.uid:
            return
        self._by_uid.pop(before.uid, None)
        self._by_uid[before.uid] = before
        if len(self._by_uid) > self._limit:
            del self._by_uid[next(iter(self._by_uid))]

    def find(self, uid: str) -> Workload | None:
        """Return the workload that had a UID."""
        return self._by_uid.get(uid)
