"""Takes partitions over from their former owner, and leaves them to the next one.

A partition comes to a worker when the group is balanced anew. Before its first input is enriched, its checkpoint is
read: with it, verdicts that vanished meanwhile are noticed. Before each commit, a checkpoint is written.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from streams.kafka.records import TopicAndPartition
from streams.worker.checkpoint import Checkpoint
from streams.worker.checkpoints import Checkpoints
from streams.worker.inflight import TrackedInput
from streams.worker.pipeline import Pipeline


class Takeover:
    """Knows which partitions of one worker have been taken over."""

    def __init__(self, pipeline: Pipeline, checkpoints: Checkpoints, committed: Mapping[int, int | None]) -> None:
        """``committed`` has, for each partition, the offset that was committed when its first input was read."""
        self._pipeline, self._checkpoints, self._committed = pipeline, checkpoints, committed
        self._done: set[int] = set()
        self._read: dict[int, Checkpoint | None] = {}
        """Checkpoints of partitions that had no input yet."""
        self._revocations = 0

    async def take_over(self, inputs: Sequence[TrackedInput], assigned: Collection[TopicAndPartition]) -> None:
        """Take over the partitions of inputs that are about to be enriched, unless that is done already."""
        first: dict[int, TrackedInput] = {}
        for tracked in inputs:
            first.setdefault(tracked.partition, tracked)
        new = first.keys() - self._done
        if not new:
            return
        revocations = self._revocations
        if not new <= self._read.keys():
            # All at once: a worker alone has as many as the topic has.
            expected = (new | {partition for _, partition in assigned}) - self._done
            found = await self._checkpoints.read(expected, new)
            if revocations != self._revocations:
                return  # the inputs belong to another worker now, or are read once more
            self._read |= found
        for partition in sorted(new):
            if revocations != self._revocations:
                return  # as above: a full queue may keep the step below waiting
            checkpoint = self._read.pop(partition)
            self._done.add(partition)
            await self._pipeline.take_over(first[partition], self._committed.get(partition), checkpoint)

    async def checkpoint(self, offsets: Mapping[int, int]) -> Collection[int]:
        """Write the checkpoints of partitions that are about to be committed up to these offsets. Return which of them
        may be committed: a commit without a checkpoint would make the next owner doubt what was finished."""
        encoded = {
            partition: self._pipeline.positions.encode(partition, offset) for partition, offset in offsets.items()
        }
        values = {partition: value for partition, value in encoded.items() if value is not None}
        await self._checkpoints.write(values)
        return values.keys()

    def forget(self, partitions: Iterable[int]) -> None:
        """Forget revoked partitions."""
        self._revocations += 1
        for partition in partitions:
            self._done.discard(partition)
            self._read.pop(partition, None)
