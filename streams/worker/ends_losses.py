"""Detects reports of connections that never arrived, by their numbers and by what the headers of batches say.

An example: a worker has read the reports below number 500 of a ring. A batch comes whose first report is number 503,
of which 10 were removed by a full spool, and which has 40: three are a gap, and 10 are lost by ``spool_full``. The next
is number 553. What the kernel could not write has no number, and is counted by its totals, as for verdicts.

Number and totals are kept with the totals of the ring's lost verdicts, so that they are in its checkpoint. The module
is pure.
"""

from __future__ import annotations

from typing import Final

from enrich.wire.batch import Header
from enrich.wire.bounds import MAX_COUNT
from enrich.wire.ends import count_ends
from streams.metrics.label_values import OTHER, LabelValues
from streams.metrics.roles import ENDS_LOSS_REASONS

_NEXT: Final = "ends_next"
_TOTAL: Final = "ends_"
_MAX_OTHER_REASONS: Final = 8
"""With all others, they must fit the totals of a checkpoint."""


class EndsLosses:
    """Finds the new losses of reports in headers; ``totals`` are those of the header's ring."""

    def __init__(self) -> None:
        self._reasons = LabelValues(_MAX_OTHER_REASONS, ENDS_LOSS_REASONS)

    def new(self, totals: dict[str, int], header: Header, *, is_first: bool = False) -> dict[str, int]:
        """Return how many reports this header shows to be lost that were not counted before, by reason.

        ``is_first``: nothing is known of the ring, so only what the header says is counted."""
        found = self._without_number(totals, header, is_first=is_first)
        if isinstance(header.ends_first, int):
            for reason, count in self._with_numbers(totals, header, header.ends_first).items():
                found[reason] = found.get(reason, 0) + count
        return {reason: min(count, MAX_COUNT) for reason, count in found.items() if count > 0}

    def _without_number(self, totals: dict[str, int], header: Header, *, is_first: bool) -> dict[str, int]:
        found: dict[str, int] = {}
        for reported, (since, total) in (header.ends_lost or {}).items():
            reason = self._reasons.of(reported)
            before = totals.get(_TOTAL + reason)
            if reason == OTHER or is_first or before is None:
                found[reason] = found.get(reason, 0) + since
            else:
                # A total that fell means that the probe counts from 0 again.
                found[reason] = total - before if total >= before else since
            if reason != OTHER:
                totals[_TOTAL + reason] = total
        return found

    def _with_numbers(self, totals: dict[str, int], header: Header, first: int) -> dict[str, int]:
        removed = {self._reasons.of(reason): count for reason, count in (header.ends_removed or {}).items()}
        behind = first + sum(removed.values())
        end = min(behind + (count_ends(header.ends) if header.ends else 0), MAX_COUNT)
        expected = totals.get(_NEXT, first)
        totals[_NEXT] = max(expected, end)
        if behind <= expected and removed:
            removed = {}  # read before
        return {"gap": max(0, first - expected), **removed}
