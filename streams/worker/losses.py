"""What did not arrive: gaps in a ring's numbers, and the losses that probes report in their headers. Values only."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from enrich.wire.batch import Header


@dataclass(frozen=True, slots=True)
class Loss:
    """Rows that will not come. ``first`` is the number of the first one missing, where that is known."""

    kind: str
    """gap: missing between two batches. lost: reported by the probe."""
    reason: str
    verdicts: int
    first: int | None = None


@dataclass(slots=True)
class _Ring:
    expected: int
    totals: dict[str, int] = field(default_factory=dict)


class Losses:
    """Follows each ring of each node. A ring's batches come in order from one partition."""

    def __init__(self) -> None:
        self._rings: dict[tuple[int, str, str], _Ring] = {}

    def see(self, partition: int, header: Header) -> list[Loss]:
        """What this batch shows to be missing. A batch that came before shows nothing."""
        key = (partition, header.node, header.ring)
        ring = self._rings.get(key)
        if ring is None:
            self._rings[key] = _Ring(_end(header), {reason: total for reason, (_, total) in header.lost.items()})
            return [Loss("lost", reason, verdicts) for reason, (verdicts, _) in header.lost.items() if verdicts]
        news = header.first >= ring.expected
        found = []
        if header.first > ring.expected:
            found.append(Loss("gap", "gap", header.first - ring.expected, ring.expected))
        for reason, (verdicts, total) in header.lost.items():
            before = ring.totals.get(reason, 0)
            # A total that fell in a batch with new rows is a probe that began to count again.
            delta = total - before if total >= before else (verdicts if news else 0)
            if news or total > before:
                ring.totals[reason] = total
            if delta > 0:
                found.append(Loss("lost", reason, delta))
        ring.expected = max(ring.expected, _end(header))
        return found

    def forget(self, partitions: Iterable[int]) -> None:
        """Another worker reads these now; what comes after is no gap of ours."""
        gone = set(partitions)
        for key in [key for key in self._rings if key[0] in gone]:
            del self._rings[key]


def _end(header: Header) -> int:
    if header.kept:
        first, verdicts = header.kept[-1]
        return first + verdicts
    return header.first + header.verdicts
