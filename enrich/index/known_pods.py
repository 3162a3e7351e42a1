"""The pods by UID, as they are now and as they were before their labels or owners changed.

A pod comes from the watch, from the interval that its probe published, or from both. The two may differ: the probe says
which labels the pod had all the time, the watch which it has now. Where a worker starts after the change, this
difference is all that is left of it, so it counts as a change at an unknown time.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet

from enrich.index.changes import Changes, Key
from enrich.index.former_values import FormerValues
from enrich.index.intervals import FOREVER
from enrich.model import Pod
from enrich.wire.address_interval import AddressInterval


class KnownPods:
    """Pods that exist, and pods that are gone for less than the tail. Writers hold the lock of the index."""

    def __init__(self, tail_ns: int, skew_ns: int, changes: Changes) -> None:
        self.former: FormerValues[str, Pod] = FormerValues(tail_ns, skew_ns)
        """Pods by UID as they were before they changed."""
        self._changes = changes
        self._by_uid: dict[str, Pod] = {}
        self.uids: AbstractSet[str] = self._by_uid.keys()
        """The UIDs of all of them, always as of now."""
        self._existing: set[str] = set()
        self._reported: set[str] = set()
        """The pods that only probes have published."""
        self._listed_ns = -FOREVER
        """When the pods were first listed: what the watch knows of an older pod, it knows since then."""

    def __len__(self) -> int:
        return len(self._by_uid)

    def get(self, uid: str) -> Pod | None:
        """Return a pod as it was last seen."""
        return self._by_uid.get(uid)

    def exists(self, uid: str) -> bool:
        """Whether the watch has a pod of this UID now."""
        return uid in self._existing

    def disappear(self, uid: str) -> None:
        """Note that the watch has a pod no more."""
        self._existing.discard(uid)

    def update(self, before: Pod | None, after: Pod, now: int, synced_until: int, *, listed: bool) -> None:
        """Take over a pod from the watch; arguments as for :meth:`enrich.index.addresses.Addresses.update_pod`."""
        if listed:
            self._listed_ns = now
        known = before or self._by_uid.get(after.uid)
        if known is not None and known.node and (known.labels, known.owner) != (after.labels, after.owner):
            # If only a probe said it before, at the pod's start, it is not known when it changed.
            self.former.note(after.uid, known, now, synced_until if before else known.acknowledged_ns)
        self._by_uid[after.uid] = after
        self._reported.discard(after.uid)
        self._existing.add(after.uid)
        self._changes.touch(Key("pod", after.uid))

    def report(self, interval: AddressInterval, now: int) -> None:
        """Take over a pod from the interval that a probe published of it."""
        uid = interval.uid
        known = self._by_uid.get(uid)
        if known is None or (uid in self._reported and known.labels != interval.labels):
            self._by_uid[uid] = interval.as_pod()
            self._reported.add(uid)
        elif uid not in self._existing or interval.start >= self._listed_ns:
            return
        else:
            first = self.former.oldest(uid, known)
            if first is None or first.labels == interval.labels:
                return
            self.former.note_earlier(uid, interval.as_pod(), interval.start, self._listed_ns, now)
        self._changes.touch(Key("pod", uid))

    def evict(self, uid: str) -> None:
        """Forget a pod that is gone."""
        del self._by_uid[uid]
        self._reported.discard(uid)
        self.former.forget(uid)
        self._changes.touch(Key("pod", uid))
