"""Knows what is finished of each ring: the content of checkpoints (:mod:`streams.worker.checkpoint`).

A batch counts when its input is acknowledged, not when it is enriched: Kafka may not have its records yet. The module
is pure.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import msgspec

from enrich.wire.batch import Header
from enrich.wire.cuts import Cut
from streams.worker.checkpoint import Checkpoint, RingPosition, encode_checkpoint
from streams.worker.inflight import TrackedInput
from streams.worker.losses import MAX_RINGS, Loss
from streams.worker.ring_tally import Expiries, Noted, finished, new_numbers, status_of

_FORGET_S: Final = 7 * 86_400
"""A ring without a batch for so long is forgotten: each restart of a node makes a new one. So after that time, a
checkpoint lacks nothing without a ring that was left out."""


class RingPositions:
    """The positions of all rings, by partition."""

    def __init__(self, now: Callable[[], float] = time.time, max_rings: int = MAX_RINGS) -> None:
        """``max_rings`` are remembered of all partitions together, each the same share."""
        self._now, self._max_rings = now, max_rings
        self._noted: dict[TrackedInput, Noted] = {}
        """What is finished once an input is acknowledged."""
        self._rings: dict[int, dict[tuple[str, str], RingPosition]] = {}
        """For each partition, its rings; those that were seen last come last."""
        self._incomplete_since: dict[int, int] = {}
        """For each partition, when a ring was left out last; 0 if none was."""
        self._expiries = Expiries(max_rings)

    def take_over(self, partition: int, checkpoint: Checkpoint | None, *, is_first: bool) -> None:
        """Begin with what the partition's former owner has finished. ``is_first``: there was none."""
        self.forget([partition])
        rings = checkpoint.rings if checkpoint else []
        self._rings[partition] = {(one.node, one.ring): one for one in rings}
        is_complete = checkpoint.complete if checkpoint else is_first
        # Whoever may write to the topic of checkpoints may write a time in the future.
        since = min(checkpoint.incomplete_since if checkpoint else 0, self._now_s()) or self._now_s()
        self._incomplete_since[partition] = 0 if is_complete else since

    def note_expired(self, partition: int) -> None:
        """Note that the topic's retention has removed batches of a partition just now."""
        self._expiries.note(partition)

    def note(
        self,
        tracked: TrackedInput,
        header: Header,
        next_number: int,
        totals: Mapping[str, int],
        before: int | None = None,
        losses: Iterable[Loss | Cut] = (),
    ) -> None:
        """Note what is finished of a batch's ring once this input is acknowledged. ``before`` is the number that the
        ring had next before it, None if that is not known; ``losses`` are what the batch shows to be lost."""
        numbers = new_numbers(header, before, losses, self._expiries.gap_of(tracked.partition, header))
        position = RingPosition(header.node, header.ring, next_number, self._now_s(), dict(totals))
        # The tally of a batch that is read again is older than the counts.
        tally = None if header.covered.end < next_number else header.tally or None
        self._noted[tracked] = Noted(position, numbers, header.cluster, tally)

    def finish(self, tracked: TrackedInput) -> dict[str, Any] | None:
        """Count an input as finished: it was acknowledged. Return the status record about it, if it had a tally."""
        noted = self._noted.pop(tracked, None)
        rings = self._rings.get(tracked.partition)
        if noted is not None and rings is not None:
            key = noted.position.node, noted.position.ring
            counts = finished(rings.pop(key, None), noted, tracked)
            rings[key] = position = msgspec.structs.replace(noted.position, finished=counts)
            while len(rings) > self._max_rings // len(self._rings):
                # Whoever may write to the raw topic can name a new ring in each batch.
                del rings[next(iter(rings))]
                self._incomplete_since[tracked.partition] = self._now_s()
            return status_of(noted, position)
        return None

    def encode(self, partition: int, offset: int) -> bytes | None:
        """Return the checkpoint of a partition of which ``offset`` is to be committed; None if it was not taken over.

        All inputs before the offset must be acknowledged."""
        rings = self._rings.get(partition)
        if rings is None:
            return None
        oldest = self._now() - _FORGET_S
        for key in [key for key, position in rings.items() if position.seen < oldest]:
            del rings[key]
        if self._incomplete_since[partition] < oldest:
            self._incomplete_since[partition] = 0
        since, positions = self._incomplete_since[partition], list(rings.values())
        checkpoint = Checkpoint(offset=offset, complete=not since, incomplete_since=since, rings=positions)
        return encode_checkpoint(checkpoint, self._now_s())

    def _now_s(self) -> int:
        return max(1, int(self._now()))

    def forget(self, partitions: Iterable[int]) -> None:
        """Forget revoked partitions."""
        revoked = set(partitions)
        self._expiries.forget(revoked)
        for partition in revoked:
            self._rings.pop(partition, None)
            self._incomplete_since.pop(partition, None)
        for tracked in [tracked for tracked in self._noted if tracked.partition in revoked]:
            del self._noted[tracked]
