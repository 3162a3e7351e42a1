"""Detects verdicts that never arrived: gaps in the numbers of a ring, and losses that probes report in batch headers.

What was not logged on purpose is counted by the same totals, because each of those verdicts is to be reported once too.

The module is pure: headers in, losses out. Each missing verdict is reported once, although batches may be repeated.
What the kernel loses has no number, and is counted by the totals in the headers. What the probe loses has numbers, and
is counted by them alone: a batch says which numbers were removed from it, or it never arrives, and its numbers are a
gap. The totals of these reasons would count the same verdicts again, in later batches and those of other rings. A gap
between two workers shows as one within a worker does, because the second takes over what the first one has finished
(:mod:`streams.worker.checkpoint`).

Whoever may write to the raw topic can name a new ring, and new reasons, in each batch. So the rings that were seen last
are remembered, and the first reasons keep their names.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from enrich.wire.batch import Header
from enrich.wire.bounds import MAX_COUNT
from enrich.wire.cuts import Cut
from enrich.wire.numbering import WITH_NUMBERS
from streams.metrics.label_values import OTHER, LabelValues
from streams.metrics.roles import LOSS_REASONS
from streams.worker.checkpoint import Checkpoint
from streams.worker.cuts import named_cuts, new_cut
from streams.worker.ends_losses import EndsLosses

MAX_RINGS: Final = 20_000
"""Rings that are remembered. A ring that is forgotten shows no gap before its next batch."""
_MAX_OTHER_REASONS: Final = 32
"""Reasons that keep their names beside those that this version knows."""


@dataclass(frozen=True, slots=True)
class Loss:
    """Verdicts that will not arrive."""

    kind: str
    """"gap": numbers are missing between two batches. "lost": the probe reported it, or they could not be enriched.
    "gap_unknown": numbers are missing, and it is not known whether another worker has finished them. "ends_lost": not
    verdicts, but reports of connections (:mod:`enrich.wire.ends`)."""
    reason: str
    verdicts: int
    """How many; for gap_unknown, at most; for ends_lost, reports."""
    first: int | None = None
    """The number of the first missing verdict, if it is known."""
    text: str = ""
    """More about it, for people."""


@dataclass(slots=True)
class _Ring:
    next_number: int
    totals: dict[str, int] = field(default_factory=dict)
    """For each reason, the last total that the probe reported."""
    outdated: bool = False
    """Whether somebody may have finished more of the ring since then, without a checkpoint."""


class Losses:
    """Follows the numbers and totals of each ring. The batches of a ring come in order, from one partition."""

    def __init__(self, max_rings: int = MAX_RINGS) -> None:
        self._rings: dict[tuple[int, str, str], _Ring] = {}
        """Ordered by their last batch, the oldest first."""
        self._known: set[int] = set()
        """Partitions of which every ring is known that had verdicts before they were taken over."""
        self._max_rings = max_rings
        self._reasons = LabelValues(_MAX_OTHER_REASONS, LOSS_REASONS)
        self._ends = EndsLosses()

    def detect(self, partition: int, header: Header) -> list[Loss | Cut]:
        """Return what this batch shows to be lost, and what it says was cut. A repeated batch shows nothing."""
        key, lost, cut = (partition, header.node, header.ring), self._lost(header), named_cuts(header.cut)
        ring = self._rings.pop(key, None)
        if ring is None or ring.outdated:
            return self._detect_first(key, header, lost, cut, ring)
        self._remember(key, ring)
        is_new = header.first >= ring.next_number
        numbers = header.covered
        found: list[Loss | Cut] = []
        if numbers.begin > ring.next_number:
            found.append(Loss("gap", "gap", numbers.begin - ring.next_number, ring.next_number))
        if missing := numbers.missing(ring.next_number):
            found.append(Loss("lost", self._reasons.of(numbers.reason), missing))
        for reason, (verdicts, total) in lost.items():
            if (new := _count_new(ring.totals, reason, verdicts, total, is_new=is_new)) > 0:
                found.append(Loss("lost", reason, new))
        for name, one in cut.items():
            if (new := _count_new(ring.totals, name, one.verdicts, one.total, is_new=is_new)) > 0:
                found.append(new_cut(one, new))
        for reason, reports in self._ends.new(ring.totals, header).items():
            found.append(Loss("ends_lost", reason, reports))
        ring.next_number = max(ring.next_number, numbers.end)
        return found

    def _detect_first(
        self,
        key: tuple[int, str, str],
        header: Header,
        lost: dict[str, tuple[int, int]],
        cut: Mapping[str, Cut],
        outdated: _Ring | None,
    ) -> list[Loss | Cut]:
        """Return what the first batch of a ring shows to be lost, if what was finished before is not known."""
        totals = {reason: total for reason, (_, total) in lost.items()} | {name: one.total for name, one in cut.items()}
        expected, numbers = outdated.next_number if outdated else 0, header.covered
        self._remember(key, _Ring(max(expected, numbers.end), totals))
        found: list[Loss | Cut] = [Loss("lost", reason, verdicts) for reason, (verdicts, _) in lost.items() if verdicts]
        # A batch without `removed` may be a part of one, which was sent again.
        if header.removed and (missing := numbers.missing(expected)):
            found.insert(0, Loss("lost", self._reasons.of(numbers.reason), missing))
        if numbers.begin > expected and (outdated or key[0] in self._known):
            reason = "old_checkpoint" if outdated else "ring_not_seen"
            found.insert(0, Loss("gap_unknown", reason, numbers.begin - expected, expected))
        ends = self._ends.new(self._rings[key].totals, header, is_first=True)
        found += [Loss("ends_lost", reason, reports) for reason, reports in ends.items()]
        return [*found, *(one for one in cut.values() if one.verdicts)]

    def take_over(self, partition: int, checkpoint: Checkpoint, *, is_current: bool) -> None:
        """Begin with what the partition's former owner has finished. ``is_current``: no other has finished more."""
        self.forget([partition])
        if is_current and checkpoint.complete:
            self._known.add(partition)
        for one in checkpoint.rings:
            ring = _Ring(one.next_number, dict(one.totals), outdated=not is_current)
            self._remember((partition, one.node, one.ring), ring)

    def next_number(self, partition: int, header: Header) -> int | None:
        """Return the number that a batch's ring had next before this batch; None if more may have been finished before
        it, or if nothing is known of the ring."""
        ring = self._rings.get((partition, header.node, header.ring))
        if ring is None or (ring.outdated and header.covered.begin > ring.next_number):
            return None
        return ring.next_number

    def position(self, partition: int, header: Header) -> tuple[int, dict[str, int]]:
        """Return the number that the ring of a batch has next, and the totals of losses that it reported."""
        ring = self._rings[partition, header.node, header.ring]
        return ring.next_number, {reason: total for reason, total in ring.totals.items() if reason != OTHER}

    def forget(self, partitions: Iterable[int]) -> None:
        """Forget the rings of revoked partitions. What another worker reads before one comes back is not a gap."""
        revoked = set(partitions)
        self._known -= revoked
        for key in [key for key in self._rings if key[0] in revoked]:
            del self._rings[key]

    def _remember(self, key: tuple[int, str, str], ring: _Ring) -> None:
        self._rings[key] = ring
        if len(self._rings) > self._max_rings:
            del self._rings[next(iter(self._rings))]

    def _lost(self, header: Header) -> dict[str, tuple[int, int]]:
        """Return what a header says was lost without a number, by reason; see _MAX_OTHER_REASONS."""
        lost: dict[str, tuple[int, int]] = {}
        for reason, (verdicts, total) in header.lost.items():
            if reason in WITH_NUMBERS:
                continue
            name = self._reasons.of(reason)
            before = lost.get(name, (0, 0))
            lost[name] = (min(before[0] + verdicts, MAX_COUNT), min(before[1] + total, MAX_COUNT))
        return lost


def _count_new(totals: dict[str, int], name: str, verdicts: int, total: int, *, is_new: bool) -> int:
    """Return how many of the verdicts that a header counts under a name were not counted before, and note its total.

    ``verdicts`` is the header's count since the last one; ``is_new``: the batch was not read before."""
    before = totals.get(name, 0)
    # A total that fell in a new batch means that the probe restarted and counts from 0 again.
    has_total = name != OTHER and total >= before  # a sum of several totals says nothing
    if is_new or total > before:
        totals[name] = total
    if has_total:
        return total - before
    return verdicts if is_new else 0
