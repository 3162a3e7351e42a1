"""Detects verdicts that never arrived: gaps in the numbers of a ring, and losses that probes report in batch headers.

The module is pure: headers in, losses out. Each kind of loss is counted once, although batches may be repeated.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from enrich.wire.batch import Header


@dataclass(frozen=True, slots=True)
class Loss:
    """Verdicts that will not arrive."""

    kind: str
    """"gap": numbers are missing between two batches. "lost": the probe reported it."""
    reason: str
    verdicts: int
    first: int | None = None
    """The number of the first missing verdict, if it is known."""


@dataclass(slots=True)
class _Ring:
    next_number: int
    totals: dict[str, int] = field(default_factory=dict)
    """For each reason, the last total that the probe reported."""


class Losses:
    """Follows the numbers and totals of each ring. The batches of a ring come in order, from one partition."""

    def __init__(self) -> None:
        self._rings: dict[tuple[int, str, str], _Ring] = {}

    def detect(self, partition: int, header: Header) -> list[Loss]:
        """Return what this batch shows to be lost. A repeated batch shows nothing."""
        key = (partition, header.node, header.ring)
        ring = self._rings.get(key)
        if ring is None:
            self._rings[key] = _Ring(_end(header), {reason: total for reason, (_, total) in header.lost.items()})
            return [Loss("lost", reason, verdicts) for reason, (verdicts, _) in header.lost.items() if verdicts]
        is_new = header.first >= ring.next_number
        found = []
        if header.first > ring.next_number:
            found.append(Loss("gap", "gap", header.first - ring.next_number, ring.next_number))
        for reason, (verdicts, total) in header.lost.items():
            before = ring.totals.get(reason, 0)
            # A total that fell in a new batch means that the probe restarted and counts from 0 again.
            delta = total - before if total >= before else (verdicts if is_new else 0)
            if is_new or total > before:
                ring.totals[reason] = total
            if delta > 0:
                found.append(Loss("lost", reason, delta))
        ring.next_number = max(ring.next_number, _end(header))
        return found

    def forget(self, partitions: Iterable[int]) -> None:
        """Forget the rings of revoked partitions. What another worker reads before one comes back is not a gap."""
        revoked = set(partitions)
        for key in [key for key in self._rings if key[0] in revoked]:
            del self._rings[key]


def _end(header: Header) -> int:
    if header.kept:
        first, verdicts = header.kept[-1]
        return first + verdicts
    return header.first + header.verdicts
