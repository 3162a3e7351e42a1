"""Pending verdicts: they wait a moment, because the cluster's index may not know yet the pods that they are about.

Theory of operation. A pod starts at 12:00:00.0 and opens a connection at once. The verdict reaches the enricher 150 ms
later; the API server's watch event about the pod may arrive after 300 ms. Rendered at once, the record would
permanently name the peer by its address only. So:

1. A verdict must wait while the index is not synced up to the verdict's time, or while one of its ends is *unsettled*:
   a local pod that the index does not know, a remote address that is likely a pod's, or one whose owner is not certain.
   Synced means both with the API server and with the intervals that probes publish. An API server that has fallen
   silent looks like one that has nothing to say, and then only the probe says that a pod's address is another's now.
2. It waits for ``WEIR_ATTRIBUTION_WAIT`` at most, counted from its own time or from its arrival, whichever is earlier.
   Then it is sent with what is known ("late"). At 12:00:00.3 in the example, the end is settled and the verdict goes.
3. A waiting verdict holds back the later verdicts of its own local pod, so that a pod's records stay in order. It holds
   back no other pod.
4. When more than ``WEIR_PENDING_BYTES`` wait, the oldest are sent first, with what is known ("full").

Verdicts that arrived together form one part. For each input, the verdicts that still wait are counted: the input is
closed, and so acknowledged, only after its last verdict was sent.

A release comes fifty times a second, and hundreds of parts may wait, so a part is left alone until something that it
waits for happens: the time of one of its verdicts is up; the index is synced up to one; the address or the pod that one
is about has changed in the index (:mod:`enrich.index.changes`), and then this verdict alone is looked up again; or an
earlier part no longer holds back one of its pods. The module is pure; :mod:`streams.worker.pipeline` does the sending.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np

from enrich.index.changes import Follower, Key
from enrich.render.interning import Int64Array
from enrich.render.merged_batch import Mask, MergedBatch
from enrich.render.peer_lookup import Lookup
from streams.worker.inflight import TrackedInput
from streams.worker.local_pods import LocalPod, local_pods, number_pods, number_rings, verdicts_by_input
from streams.worker.released import Released, merge_released

GUARD_NS: Final = 100_000_000
"""How much earlier a node's kernel may know a pod than the API server: the kubelet creates the sandbox first, then
reports it. The index counts as synced this much less far than its source says."""

ObjectArray = np.ndarray[Any, np.dtype[np.object_]]
_NEVER: Final = (1 << 63) - 1


class EndLookup(Protocol):
    """Looks up who the ends of verdicts are; see :class:`enrich.render.enricher.Enricher`."""

    def lookup(self, batch: MergedBatch, *, is_final: bool = False) -> Lookup: ...

    def follow(self) -> Follower: ...

    def awaited(self, batch: MergedBatch, found: Lookup) -> list[tuple[Key, ...]]: ...


@dataclass(slots=True, eq=False)
class _Part:
    """Pending verdicts that arrived together."""

    inputs: Sequence[TrackedInput]
    batch: MergedBatch
    due: Int64Array
    """When each verdict has waited as long as it may."""
    unsettled: Mask
    awaited: ObjectArray
    """The keys that each unsettled verdict waits for."""
    keys: frozenset[Key] = frozenset()
    """All of them; some may be those of verdicts that are gone."""
    pods: frozenset[LocalPod] = frozenset()
    next_due: int = 0
    """When the first verdict that does not only wait behind others has waited as long as it may. 0: look at the part
    in the next release."""
    until: int = 0
    """Until when the index was synced when the part was last looked at."""
    next_wall: int = 0
    """The time of the first verdict that waits for the index to be synced."""


class PendingVerdicts:
    """Keeps all pending verdicts, oldest part first, and releases those that need not wait any longer."""

    def __init__(
        self,
        ends: EndLookup,
        synced_until_ns: Callable[[], int],
        wait_ns: int,
        max_bytes: int,
        now_ns: Callable[[], int],
        reported_until_ns: Callable[[], int] = lambda: _NEVER,
    ) -> None:
        """``synced_until_ns``: everything that the API server published before this wall-clock time is in the index;
        ``reported_until_ns``: and so are the address intervals that probes published before this one."""
        self.bytes = 0
        self._ends, self._synced_until_ns, self._reported_until_ns = ends, synced_until_ns, reported_until_ns
        self._wait_ns, self._max_bytes, self._now_ns = wait_ns, max_bytes, now_ns
        self._parts: list[_Part] = []
        self._parts_of_pod: dict[LocalPod, list[_Part]] = {}
        """For each pod with pending verdicts, the parts that have them, oldest first."""
        self._freed: set[LocalPod] = set()
        """Pods of which a part has no verdicts any more, since the last release."""
        self._follower = ends.follow()
        self._unsent: dict[TrackedInput, int] = {}
        """For each input, how many of its verdicts wait or are being sent right now."""

    def __len__(self) -> int:
        return len(self._parts)

    def until_ns(self) -> int:
        """Return the wall-clock time up to which verdicts can be named with certainty."""
        return self._synced_until_ns() - GUARD_NS

    def ready_ns(self) -> int:
        """Return the wall-clock time up to which verdicts need not wait for the index."""
        return min(self._synced_until_ns(), self._reported_until_ns()) - GUARD_NS

    def has_pending(self, tracked: TrackedInput) -> bool:
        """Return whether verdicts of this input wait, or are being sent right now."""
        return tracked in self._unsent

    def forget(self, partitions: Iterable[int]) -> None:
        """Drop the verdicts of revoked partitions: another worker reads them again."""
        revoked = set(partitions)
        self.abandon({one for one in self._unsent if one.partition in revoked})

    def abandon(self, inputs: Iterable[TrackedInput]) -> None:
        """Drop the verdicts of these inputs."""
        abandoned = set(inputs)
        for part in tuple(self._parts):
            left = np.array([one not in abandoned for one in part.inputs])
            if not left.all():
                self._keep(part, left[part.batch.owner])
        for tracked in abandoned:
            self._unsent.pop(tracked, None)

    def split(self, inputs: Sequence[TrackedInput], batch: MergedBatch, found: Lookup, until_ns: int) -> Mask | None:
        """Keep the verdicts that must wait. Return which verdicts can be sent now, or None if all of them can.

        ``found`` is the lookup of the batch; ``until_ns`` is :meth:`ready_ns` as it was before that lookup."""
        now = self._now_ns()
        unsettled = np.zeros(len(batch.verdicts), bool) if found.unsettled is None else found.unsettled.copy()
        # A node whose clock is ahead must not make its verdicts wait longer.
        due = np.minimum(batch.wall, now) + self._wait_ns
        part = _Part(inputs, batch, due, unsettled, np.empty(len(batch.verdicts), object))
        blocked = self._blocked(local_pods(batch)) if self._parts else set()
        waits = self._waits(part, now, until_ns, blocked)
        if waits is None:
            return None
        if found.unsettled is not None:
            awaited = self._ends.awaited(batch, found)
            part.awaited[unsettled] = np.fromiter(awaited, object, len(awaited))
        self._parts.append(part)
        self.bytes += batch.verdicts.nbytes
        self._keep(part, waits)
        part.keys = frozenset().union(*part.awaited[part.unsettled])
        for tracked, verdicts in verdicts_by_input(inputs, part.batch):
            self._unsent[tracked] = self._unsent.get(tracked, 0) + verdicts
        return ~waits

    def release(self) -> Iterator[Released]:
        """Yield the verdicts that need not wait any longer, those of a pod in order.

        The caller sends them and calls :meth:`mark_sent` before it asks for the next."""
        for released in merge_released(self._release()):
            # The partition of an input may have been revoked while the caller was sending.
            left = np.array([one in self._unsent for one in released.inputs])
            batch = released.batch if left.all() else released.batch.pick(left[released.batch.owner])
            if len(batch.verdicts):
                yield released._replace(batch=batch, late=min(released.late, len(batch.verdicts)))

    def _release(self) -> list[Released]:
        """Take what need not wait any longer out of every part."""
        found = []
        until, now = self.ready_ns(), self._now_ns()
        changed = self._follower.take()
        for part in self._parts if changed is None or changed else ():
            self._look_up_again(part, changed)
        for part in tuple(self._parts):
            full = self.bytes > self._max_bytes
            idle = now < part.next_due and until < part.next_wall and self._freed.isdisjoint(part.pods)
            if idle and not full:
                continue
            if until >= part.next_wall:
                self._look_up_synced(part, until)
            waits = None if full else self._waits(part, now, until, self._blocked(part.pods, part))
            late = 0 if waits is not None and waits.all() else self._late(part, until, waits)
            released = part.batch if waits is None else part.batch.pick(~waits)
            self._keep(part, waits)
            if len(released.verdicts):
                found.append(Released(part.inputs, released, late, full))
        self._freed.clear()
        return found

    def mark_sent(self, released: Released) -> Iterator[TrackedInput]:
        """Count released verdicts as sent. Yield the inputs of which no verdict is left."""
        for tracked, verdicts in verdicts_by_input(released.inputs, released.batch):
            if tracked in self._unsent:
                self._unsent[tracked] -= verdicts
                if not self._unsent[tracked]:
                    del self._unsent[tracked]
                    yield tracked

    def _look_up_again(self, part: _Part, changed: AbstractSet[Key] | None) -> None:
        """Look up the unsettled verdicts of a part that wait for what has changed; None: everything may have."""
        if changed is not None and part.keys.isdisjoint(changed):
            return
        places = np.flatnonzero(part.unsettled)
        if changed is not None:
            places = places[[not changed.isdisjoint(keys) for keys in part.awaited[places]]]
        if len(places):
            again = np.zeros(len(part.unsettled), bool)
            again[places] = True
            self._look_up(part, again)

    def _look_up_synced(self, part: _Part, until: int) -> None:
        """Look up the verdicts up to whose time the index is synced by now: what it knew before may be wrong."""
        synced = (part.batch.wall > part.until) & (part.batch.wall <= until)
        if synced.any():
            self._look_up(part, synced)

    def _look_up(self, part: _Part, verdicts: Mask) -> None:
        """Look up some verdicts of a part, and note which of them are unsettled and what these wait for."""
        batch = part.batch.pick(verdicts)
        found = self._ends.lookup(batch)
        part.unsettled[verdicts] = False
        if found.unsettled is not None:
            awaited = self._ends.awaited(batch, found)
            unsettled = np.flatnonzero(verdicts)[found.unsettled]
            part.unsettled[unsettled] = True
            part.awaited[unsettled] = np.fromiter(awaited, object, len(awaited))
            part.keys = part.keys.union(*awaited)
        part.next_due = 0

    def _blocked(self, pods: Iterable[LocalPod], by_earlier_than: _Part | None = None) -> set[LocalPod]:
        """Return which of some pods have pending verdicts in a part, or in an earlier part than a given one."""
        return {pod for pod in pods if pod in self._parts_of_pod and self._parts_of_pod[pod][0] is not by_earlier_than}

    def _waits(self, part: _Part, now: int, until: int, behind: set[LocalPod]) -> Mask | None:
        """Return which verdicts must wait, or None if none must; note when to look again. ``behind``: pods with
        earlier pending verdicts."""
        batch = part.batch
        late = batch.wall > until
        part.until = until
        waits: Mask = (late | part.unsettled) & (part.due > now)
        part.next_due = int(part.due[waits].min(initial=_NEVER))
        part.next_wall = int(batch.wall[waits & late].min(initial=_NEVER))
        rings = number_rings(batch)
        pods = number_pods(batch, rings)
        codes_behind = [rings[ring] << 32 | endpoint for ring, endpoint in behind]
        if codes_behind:
            waits |= np.isin(pods, codes_behind)
        if not waits.any():
            return None
        if not waits.all():
            # From the first waiting verdict of each pod on, all verdicts of the pod wait.
            _, pod = np.unique(pods, return_inverse=True)
            places = np.arange(len(pods))
            first = np.full(int(pod.max()) + 1, len(pods))
            np.minimum.at(first, pod[waits], places[waits])
            waits = places >= first[pod]
        return waits

    @staticmethod
    def _late(part: _Part, until: int, waits: Mask | None) -> int:
        late = part.unsettled | (part.batch.wall > until)
        return int(np.count_nonzero(late if waits is None else late & ~waits))

    def _keep(self, part: _Part, verdicts: Mask | None) -> None:
        """Remove from a part all but these verdicts; None removes the part."""
        if verdicts is not None and verdicts.all() and part.pods:
            return
        self.bytes -= part.batch.verdicts.nbytes
        if verdicts is None or not verdicts.any():
            self._set_pods(part, frozenset())
            self._parts.remove(part)
            return
        part.batch, part.due = part.batch.pick(verdicts), part.due[verdicts]
        part.unsettled, part.awaited = part.unsettled[verdicts], part.awaited[verdicts]
        self._set_pods(part, local_pods(part.batch))
        self.bytes += part.batch.verdicts.nbytes

    def _set_pods(self, part: _Part, pods: frozenset[LocalPod]) -> None:
        """Note which pods have verdicts in a part from now on. The pods that no longer have any are free."""
        for pod in part.pods - pods:
            self._parts_of_pod[pod].remove(part)
            if not self._parts_of_pod[pod]:
                del self._parts_of_pod[pod]
            self._freed.add(pod)
        for pod in pods - part.pods:
            self._parts_of_pod.setdefault(pod, []).append(part)
        part.pods = pods
