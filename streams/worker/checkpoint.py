"""The checkpoint of a partition: which verdicts of which rings were finished up to an offset.

Theory of operation. Batches may vanish from the raw topic while no worker reads it: retention, a broker that lost its
disk, a topic that was made again. Within one worker this shows, because the numbers of a ring do not follow each other.
Between two workers it shows only if the second one knows what the first one finished. So before a worker commits
offset 40 of partition 3, it writes a record with the key ``GROUP/3`` to the topic of checkpoints::

    {"v":1,"offset":40,"complete":true,
     "rings":[["n1","9f3c",5003,1795890000,{"ring_full":40},[0,5003,5003,5003,0,0,0,{}]]]}

All inputs before offset 40 are finished; the next verdict of ring 9f3c of node n1 has the number 5003; the ring was
last seen at that time; 40 verdicts were reported as lost so far; and of the numbers from 0 on, 5003 verdicts arrived
and were written. The next owner of partition 3 reads this before it
takes its first batch. If that batch begins with number 6000, 997 verdicts are missing.

A checkpoint is written before its commit, so it is never behind it, unless somebody else has committed: a version that
writes no checkpoints, or an operator who has set the offsets. Then it is not known what was finished, and that
is reported. Repeats do no harm: the numbers of a ring only rise, and a lower one than expected is not a gap.

Whoever may write to the topic may write anything, so a record is decoded strictly.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Final

import msgspec

from enrich.wire.bounds import Count, LossReason, Node, RingId

_VERSION: Final = 1
MERGED_RECORDS: Final = 2
"""So many of the last checkpoints of a partition are read, since a frozen worker may have written the last one."""
MAX_BYTES: Final = 512_000
"""The most bytes of a checkpoint: some 3,000 rings, and less than every broker takes."""


class Finished(msgspec.Struct, array_like=True, frozen=True):
    """What became of the verdicts of one ring (:mod:`streams.worker.ring_tally`)."""

    begin: Count
    """The first number that is counted."""
    read: Count = 0
    """Verdicts that arrived."""
    enriched: Count = 0
    """Verdicts of which a record was made."""
    written: Count = 0
    """Records that Kafka has acknowledged on the topic of flows."""
    unlogged: Count = 0
    """Records that Kafka has acknowledged on the topic of denied flows only, for alerts."""
    dead: Count = 0
    """Verdicts that are dead letters because they could not be enriched."""
    refused: Count = 0
    """Records that Kafka refused, and that are dead letters."""
    missing: Annotated[dict[LossReason, Count], msgspec.Meta(max_length=64)] = {}
    """Numbers without a verdict, by reason."""


class RingPosition(msgspec.Struct, array_like=True, frozen=True):
    """What was finished of one ring."""

    node: Node
    ring: RingId
    next_number: Count
    seen: Count
    """When its last batch was finished, in seconds since the epoch."""
    totals: Annotated[dict[LossReason, Count], msgspec.Meta(max_length=64)] = {}
    """For each reason, the last total of losses that the probe reported."""
    finished: Finished | None = None
    """None in the checkpoint of an earlier version."""


class Checkpoint(msgspec.Struct, frozen=True, kw_only=True):
    """What was finished of one partition."""

    v: int = _VERSION
    offset: Count
    """All inputs before it are finished."""
    complete: bool
    """Whether no ring was left out that may still send: for lack of room, or because an earlier version noted none."""
    incomplete_since: Count = 0
    """When a ring was left out last, in seconds since the epoch; 0 if the checkpoint is complete, or if that is not
    known."""
    rings: list[RingPosition]
    """Those that were seen last come last."""


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Checkpoint).decode


def encode_checkpoint(checkpoint: Checkpoint, now: int) -> bytes:
    """Encode a checkpoint as a Kafka value. Rings that do not fit are left out, those that were seen first."""
    while True:
        value = _encode(checkpoint)
        if len(value) <= MAX_BYTES:
            return value
        kept = checkpoint.rings[len(checkpoint.rings) // 2 + 1 :]
        checkpoint = msgspec.structs.replace(checkpoint, complete=False, incomplete_since=now, rings=kept)


def newest(values: Iterable[bytes]) -> Checkpoint | None:
    """Return what the last checkpoints of a partition say together, None if none of them can be decoded.

    A worker that was frozen may have written an old one after its successor's: so the highest numbers count."""
    found: list[Checkpoint] = []
    for value in values:
        try:
            checkpoint = _decode(value)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            continue
        if checkpoint.v == _VERSION:
            found.append(checkpoint)
    if not found:
        return None
    rings: dict[tuple[str, str], RingPosition] = {}
    for position in (position for checkpoint in found for position in checkpoint.rings):
        before = rings.pop((position.node, position.ring), position)
        rings[position.node, position.ring] = max(before, position, key=lambda one: one.next_number)
    since = [one.incomplete_since for one in found if not one.complete]
    return Checkpoint(
        offset=max(one.offset for one in found),
        complete=not since,
        incomplete_since=max(since) if all(since) and since else 0,
        rings=list(rings.values()),
    )
