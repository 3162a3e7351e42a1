"""Knows what is finished of each ring: the content of checkpoints (:mod:`streams.worker.checkpoint`).

A batch counts when its input is acknowledged, not when it is enriched: Kafka may not have its records yet. The module
is pure.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from streams.worker.checkpoint import Checkpoint, RingPosition, encode_checkpoint
from streams.worker.inflight import TrackedInput
from streams.worker.losses import MAX_RINGS

_FORGET_S: Final = 7 * 86_400
"""A ring without a batch for so long is forgotten: each restart of a node makes a new one."""


class RingPositions:
    """The positions of all rings, by partition."""

    def __init__(self, now: Callable[[], float] = time.time, max_rings: int = MAX_RINGS) -> None:
        """``max_rings`` are remembered of all partitions together, each the same share."""
        self._now, self._max_rings = now, max_rings
        self._noted: dict[TrackedInput, RingPosition] = {}
        """What is finished once an input is acknowledged."""
        self._rings: dict[int, dict[tuple[str, str], RingPosition]] = {}
        """For each partition, its rings; those that were seen last come last."""
        self._complete: dict[int, bool] = {}

    def take_over(self, partition: int, checkpoint: Checkpoint | None, *, is_first: bool) -> None:
        """Begin with what the partition's former owner has finished. ``is_first``: there was none."""
        self.forget([partition])
        rings = checkpoint.rings if checkpoint else []
        self._rings[partition] = {(one.node, one.ring): one for one in rings}
        self._complete[partition] = checkpoint.complete if checkpoint else is_first

    def note(self, tracked: TrackedInput, node: str, ring: str, next_number: int, totals: Mapping[str, int]) -> None:
        """Note what is finished of a ring once this input is acknowledged."""
        self._noted[tracked] = RingPosition(node, ring, next_number, max(0, int(self._now())), dict(totals))

    def finish(self, tracked: TrackedInput) -> None:
        """Count an input as finished: it was acknowledged."""
        position = self._noted.pop(tracked, None)
        rings = self._rings.get(tracked.partition)
        if position is not None and rings is not None:
            rings.pop((position.node, position.ring), None)
            rings[position.node, position.ring] = position
            while len(rings) > self._max_rings // len(self._rings):
                # Whoever may write to the raw topic can name a new ring in each batch.
                del rings[next(iter(rings))]
                self._complete[tracked.partition] = False

    def encode(self, partition: int, offset: int) -> bytes | None:
        """Return the checkpoint of a partition of which ``offset`` is to be committed; None if it was not taken over.

        All inputs before the offset must be acknowledged."""
        rings = self._rings.get(partition)
        if rings is None:
            return None
        oldest = self._now() - _FORGET_S
        for key in [key for key, position in rings.items() if position.seen < oldest]:
            del rings[key]
        complete, positions = self._complete[partition], list(rings.values())
        return encode_checkpoint(Checkpoint(offset=offset, complete=complete, rings=positions))

    def forget(self, partitions: Iterable[int]) -> None:
        """Forget revoked partitions."""
        revoked = set(partitions)
        for partition in revoked:
            self._rings.pop(partition, None)
            self._complete.pop(partition, None)
        for tracked in [tracked for tracked in self._noted if tracked.partition in revoked]:
            del self._noted[tracked]
