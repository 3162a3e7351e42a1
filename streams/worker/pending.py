"""Pending verdicts: they wait a moment, because the cluster's index may not know yet the pods that they are about.

Theory of operation. A pod starts at 12:00:00.0 and opens a connection at once. The verdict reaches the enricher 150 ms
later; the API server's watch event about the pod may arrive after 300 ms. Rendered at once, the record would
permanently name the peer by its address only. So:

1. A verdict must wait while the index is not synced up to the verdict's time, or while one of its ends is *unsettled*:
   a local pod that the index does not know, a remote address that is likely a pod's, or one whose owner is not certain.
2. It waits for ``WEIR_ATTRIBUTION_WAIT`` at most, counted from its own time or from its arrival, whichever is earlier.
   Then it is sent with what is known ("late"). At 12:00:00.3 in the example, the end is settled and the verdict goes.
3. A waiting verdict holds back the later verdicts of its own local pod, so that a pod's records stay in order. It holds
   back no other pod.
4. When more than ``WEIR_PENDING_BYTES`` wait, the oldest are sent first, with what is known ("full").

Verdicts that arrived together form one part. For each input, the verdicts that still wait are counted: the input is
closed, and so acknowledged, only after its last verdict was sent. Unsettled ends are looked up again only when the
index has changed (its ``generation``). The module is pure; :mod:`streams.worker.pipeline` does the sending.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, Protocol

import numpy as np

from enrich.render.merged_batch import Mask, MergedBatch
from enrich.render.peer_lookup import Lookup
from streams.worker.inflight import TrackedInput

GUARD_NS: Final = 100_000_000
"""How much earlier a node's kernel may know a pod than the API server: the kubelet creates the sandbox first, then
reports it. The index counts as synced this much less far than its source says."""

LocalPod = tuple[str, int]
"""The ring and the endpoint number of a local pod."""


class EndLookup(Protocol):
    """Looks up who the ends of verdicts are; see :class:`enrich.render.enricher.Enricher`."""

    @property
    def generation(self) -> int: ...

    def lookup(self, batch: MergedBatch) -> Lookup: ...


@dataclass(slots=True, eq=False)
class _Part:
    """Pending verdicts that arrived together."""

    inputs: Sequence[TrackedInput]
    batch: MergedBatch
    arrived_ns: int
    generation: int
    """The index's generation when ``unsettled`` was found."""
    unsettled: Mask
    pods: frozenset[LocalPod] = field(default=frozenset())


class Released(NamedTuple):
    """Verdicts that need not wait any longer."""

    inputs: Sequence[TrackedInput]
    """The inputs that they arrived in, indexed by the batch's ``owner``."""
    batch: MergedBatch
    late: int
    """How many of them are sent because they have waited as long as they may."""
    full: bool
    """Whether they are sent because too many bytes wait."""


class PendingVerdicts:
    """Keeps all pending verdicts, oldest part first, and releases those that need not wait any longer."""

    def __init__(
        self,
        ends: EndLookup,
        synced_until_ns: Callable[[], int],
        wait_ns: int,
        max_bytes: int,
        now_ns: Callable[[], int],
    ) -> None:
        """``synced_until_ns``: everything published before this wall-clock time is in the index."""
        self.bytes = 0
        self._ends, self._synced_until_ns = ends, synced_until_ns
        self._wait_ns, self._max_bytes, self._now_ns = wait_ns, max_bytes, now_ns
        self._parts: list[_Part] = []
        self._unsent: dict[TrackedInput, int] = {}
        """For each input, how many of its verdicts wait or are being sent right now."""

    def __len__(self) -> int:
        return len(self._parts)

    def until_ns(self) -> int:
        """Return the wall-clock time up to which verdicts can be named with certainty."""
        return self._synced_until_ns() - GUARD_NS

    def has_pending(self, tracked: TrackedInput) -> bool:
        """Return whether verdicts of this input wait, or are being sent right now."""
        return tracked in self._unsent

    def forget(self, partitions: Iterable[int]) -> None:
        """Drop the verdicts of revoked partitions: another worker reads them again."""
        revoked = set(partitions)
        self.abandon({one for part in self._parts for one in part.inputs if one.partition in revoked})

    def abandon(self, inputs: Iterable[TrackedInput]) -> None:
        """Drop the verdicts of these inputs."""
        abandoned = set(inputs)
        for part in tuple(self._parts):
            left = np.array([one not in abandoned for one in part.inputs])
            if not left.all():
                self._keep(part, left[part.batch.owner])
        for tracked in abandoned:
            self._unsent.pop(tracked, None)

    def split(
        self, inputs: Sequence[TrackedInput], batch: MergedBatch, unsettled: Mask | None, until_ns: int
    ) -> Mask | None:
        """Keep the verdicts that must wait. Return which verdicts can be sent now, or None if all of them can.

        ``unsettled`` is what a lookup found; ``until_ns`` is :meth:`until_ns` as it was before that lookup."""
        now = self._now_ns()
        if unsettled is None:
            unsettled = np.zeros(len(batch.verdicts), bool)
        behind = {pod for part in self._parts for pod in part.pods}
        waits = self._waits(batch, unsettled, now, now, until_ns, behind)
        if waits is None:
            return None
        kept = batch.pick(waits)
        part = _Part(inputs, kept, now, self._ends.generation, unsettled[waits], _local_pods(kept))
        self._parts.append(part)
        self.bytes += kept.verdicts.nbytes
        for tracked, verdicts in _counts(inputs, kept):
            self._unsent[tracked] = self._unsent.get(tracked, 0) + verdicts
        return ~waits

    def release(self) -> Iterator[Released]:
        """Yield the verdicts that need not wait any longer, those of a pod in order.

        The caller sends them and calls :meth:`mark_sent` before it asks for the next."""
        until, now = self.until_ns(), self._now_ns()
        behind: set[LocalPod] = set()
        for part in tuple(self._parts):
            if part not in self._parts:
                continue  # its partition was revoked while the caller was sending
            full = self.bytes > self._max_bytes
            waits = None if full else self._still_waits(part, now, until, behind)
            late = 0 if waits is not None and waits.all() else self._late(part, until, waits)
            released = part.batch if waits is None else part.batch.pick(~waits)
            self._keep(part, waits)
            behind |= part.pods
            if len(released.verdicts):
                yield Released(part.inputs, released, late, full)

    def mark_sent(self, released: Released) -> Iterator[TrackedInput]:
        """Count released verdicts as sent. Yield the inputs of which no verdict is left."""
        for tracked, verdicts in _counts(released.inputs, released.batch):
            if tracked in self._unsent:
                self._unsent[tracked] -= verdicts
                if not self._unsent[tracked]:
                    del self._unsent[tracked]
                    yield tracked

    def _still_waits(self, part: _Part, now: int, until: int, behind: set[LocalPod]) -> Mask | None:
        if part.generation != self._ends.generation:
            part.generation = self._ends.generation
            unsettled = self._ends.lookup(part.batch).unsettled
            part.unsettled = np.zeros(len(part.batch.verdicts), bool) if unsettled is None else unsettled
        return self._waits(part.batch, part.unsettled, part.arrived_ns, now, until, behind)

    def _waits(
        self, batch: MergedBatch, unsettled: Mask, arrived: int, now: int, until: int, behind: set[LocalPod]
    ) -> Mask | None:
        """Return which verdicts must wait, or None if none must. ``behind``: pods with earlier pending verdicts."""
        wall = batch.wall
        # A node whose clock is ahead must not make its verdicts wait longer.
        waits: Mask = ((wall > until) | unsettled) & (np.minimum(wall, arrived) + self._wait_ns > now)
        rings = _rings(batch)
        pods = _codes(batch, rings)
        codes_behind = [rings[ring] << 32 | endpoint for ring, endpoint in behind if ring in rings]
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
        if verdicts is not None and verdicts.all():
            return
        self.bytes -= part.batch.verdicts.nbytes
        if verdicts is None or not verdicts.any():
            part.pods = frozenset()
            self._parts.remove(part)
            return
        part.batch, part.unsettled = part.batch.pick(verdicts), part.unsettled[verdicts]
        part.pods = _local_pods(part.batch)
        self.bytes += part.batch.verdicts.nbytes


def _counts(inputs: Sequence[TrackedInput], batch: MergedBatch) -> Iterator[tuple[TrackedInput, int]]:
    """Yield each input that has verdicts in the batch, and how many."""
    counts = np.bincount(batch.owner).tolist()
    return ((inputs[place], verdicts) for place, verdicts in enumerate(counts) if verdicts)


def _rings(batch: MergedBatch) -> dict[str, int]:
    """Number the rings of the batch."""
    return {ring: number for number, ring in enumerate(dict.fromkeys(header.ring for header in batch.headers))}


def _codes(batch: MergedBatch, rings: dict[str, int]) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Return one integer for the local pod of each verdict: the ring's number above, the endpoint's below."""
    ring = np.array([rings[header.ring] for header in batch.headers], np.int64)
    codes: np.ndarray[Any, np.dtype[np.int64]] = ring[batch.owner] << 32 | batch.verdicts["endpoint"]
    return codes


def _local_pods(batch: MergedBatch) -> frozenset[LocalPod]:
    rings = _rings(batch)
    names = list(rings)
    return frozenset((names[code >> 32], code & 0xFFFFFFFF) for code in np.unique(_codes(batch, rings)).tolist())
