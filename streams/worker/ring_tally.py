"""Counts, for each ring, what became of its verdicts: the worker's part of the chain of custody.

An example: a worker has finished the numbers below 500 of a ring. A batch comes with the numbers 520 to 619, of which
a full spool has removed 10. So 20 numbers are a gap, 10 are missing by ``spool_full``, and 90 are read. When Kafka has
all records made from it, the input says that 90 were enriched and 89 written, and that Kafka refused one record. The
sums hold for the numbers below 620, although later ones are still on their way. A batch that is read again has no new
numbers and counts nothing. The module is pure.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, NamedTuple

import msgspec

from enrich.wire.batch import Header
from enrich.wire.bounds import MAX_COUNT
from enrich.wire.cuts import Cut
from enrich.wire.numbering import WITH_NUMBERS
from enrich.wire.tally import Tally
from streams.worker.checkpoint import Finished, RingPosition
from streams.worker.inflight import TrackedInput
from streams.worker.losses import Loss

EXPIRED: Final = "expired"
"""Numbers that the topic's retention has removed unread."""
GAP: Final = "gap"
"""Numbers that never arrived, without a reason."""
UNKNOWN: Final = "gap_unknown"
"""Numbers of which it is not known whether another worker has finished them."""
_OTHER: Final = "other"


class NewNumbers(NamedTuple):
    """The numbers of a batch that were not finished or under way before."""

    begin: int
    """The first number that the batch says anything about."""
    read: int
    """Verdicts of the batch among them."""
    repeated: int
    """Verdicts of the batch that are not among them."""
    missing: dict[str, int]
    """Numbers that are not in the batch, by reason."""


class Noted(NamedTuple):
    """What is finished of a ring once an input is acknowledged."""

    position: RingPosition
    numbers: NewNumbers
    cluster: str
    tally: Tally | None


def new_numbers(header: Header, before: int | None, losses: Iterable[Loss | Cut], gap: str) -> NewNumbers:
    """Say what is new in a batch. ``before`` is the number that its ring had next, None if that is not known;
    ``losses`` are what it shows to be lost; ``gap`` is why numbers in front of it are missing."""
    numbers = header.covered
    unknown = sum(one.verdicts for one in losses if isinstance(one, Loss) and one.kind == UNKNOWN)
    begin = numbers.begin - unknown if unknown or before is None else before
    missing = {UNKNOWN: unknown, gap: max(0, numbers.begin - begin - unknown)}
    reason = numbers.reason if numbers.reason in WITH_NUMBERS else _OTHER
    missing[reason] = missing.get(reason, 0) + numbers.missing(begin)
    read = sum(max(0, first + count - max(first, begin)) for first, count in numbers.present)
    found = {reason: count for reason, count in missing.items() if count}
    return NewNumbers(begin, read, header.verdicts - read, found)


def finished(before: RingPosition | None, noted: Noted, tracked: TrackedInput) -> Finished:
    """Return the counts of a ring after an input of it is acknowledged. ``before`` is its position before that."""
    numbers, base = noted.numbers, before.finished if before else None
    if before is None or base is None or before.next_number != numbers.begin:
        base = Finished(begin=numbers.begin)
    missing = _sum(base.missing, numbers.missing)
    if not numbers.read:
        return msgspec.structs.replace(base, missing=missing)
    # Of a batch that was read before in part, it is not known what became of that part: it is taken from these in turn.
    left, more = numbers.repeated, {"read": numbers.read, "enriched": tracked.enriched}
    for name in ("written", "unlogged", "refused", "dead"):
        again = min(left, getattr(tracked, name))
        more[name] = getattr(tracked, name) - again
        more["enriched"] -= again if name != "dead" else 0
        left -= again
    more["enriched"] = max(0, more["enriched"])
    # A checkpoint that somebody has made up may have any counts, and the next one must be readable.
    counts = {name: min(getattr(base, name) + count, MAX_COUNT) for name, count in more.items()}
    return Finished(base.begin, **counts, missing=missing)


def status_of(noted: Noted, position: RingPosition) -> dict[str, Any] | None:
    """Return the record of the status topic about a tally that has come to its end; None if there was none."""
    if noted.tally is None or position.finished is None:
        return None
    counts, tally = position.finished, msgspec.to_builtins(noted.tally)
    # The policies in force have records of their own (streams.worker.accounting).
    del tally["in_force"]
    return {
        "type": "tally",
        "cluster": noted.cluster,
        "node": position.node,
        "ring": position.ring,
        "next": position.next_number,
        "finished": {name: getattr(counts, name) for name in counts.__struct_fields__},
        "tally": tally,
    }


class Expiries:
    """Knows which gaps the topic's retention has made, by partition."""

    def __init__(self, max_rings: int) -> None:
        self._max_rings = max_rings
        self._seen: dict[int, set[tuple[str, str]]] = {}
        """Partitions of which batches have expired, and the rings that were seen since."""

    def note(self, partition: int) -> None:
        """Note that batches of a partition have expired just now."""
        self._seen[partition] = set()

    def gap_of(self, partition: int, header: Header) -> str:
        """Return why numbers are missing in front of a batch. The first batch of a ring since then shows what expired;
        a later gap is another matter."""
        seen = self._seen.get(partition)
        if seen is None or (header.node, header.ring) in seen:
            return GAP
        seen.add((header.node, header.ring))
        if len(seen) > self._max_rings:
            del self._seen[partition]
        return EXPIRED

    def forget(self, partitions: Iterable[int]) -> None:
        """Forget revoked partitions."""
        for partition in partitions:
            self._seen.pop(partition, None)


def _sum(before: dict[str, int], more: dict[str, int]) -> dict[str, int]:
    return before | {reason: min(before.get(reason, 0) + count, MAX_COUNT) for reason, count in more.items()}
