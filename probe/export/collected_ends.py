"""Takes reports of connections (``bpf/ends.h``) out of their ring for the headers of batches.

They travel in the header, so a batch has the same verdicts and numbers with them and without. Their place in the ring
is released when the batch that has them is in the spool: a probe that is killed in between reads them again, and they
are sent twice, with the same ring, number and part.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import numpy as np

from enrich.wire.ends import Ends
from probe.export.ring_entries import RingEntries
from probe.kernel.description import converted
from probe.kernel.ends_layout import END

MAX_IN_BATCH: Final = 1000
"""The most reports in one batch. When so many wait, a batch is due."""


class CollectedEnds:
    """The reports of one ring that are in no batch yet."""

    def __init__(
        self,
        ring: RingEntries | None = None,
        lost: Callable[[], Mapping[str, int]] = dict,
        reported: Mapping[str, int] | None = None,
    ) -> None:
        """``ring``: None if the programs make no reports. ``lost`` returns the total of reports that were not written,
        by reason; ``reported`` are the totals in the last batch of the process before."""
        self._ring = ring
        self._lost, self._reported = lost, dict(reported or {})
        self.waiting: Ends = np.empty(0, END)
        """Reports for the next batch."""

    @property
    def first(self) -> int | None:
        """The number of the first report for the next batch; None if the programs make no reports."""
        return self._ring.next_number - len(self.waiting) if self._ring else None

    @property
    def has_unreported_losses(self) -> bool:
        """Whether reports were lost that no batch says."""
        return dict(self._lost()) != self._reported

    def losses(self) -> dict[str, tuple[int, int]]:
        """Return what was lost, as a header has it: since the last batch, and in all."""
        return {reason: (total - self._reported.get(reason, 0), total) for reason, total in self._lost().items()}

    def mark_reported(self, losses: Mapping[str, tuple[int, int]]) -> None:
        """Note what a batch says of losses."""
        self._reported = {reason: total for reason, (_, total) in losses.items()}

    @property
    def end(self) -> int:
        """The number that the next report will get."""
        return self._ring.producer_number if self._ring else 0

    def fill(self, end: int) -> None:
        """Read the reports below a number, as far as they have room in the next batch."""
        if self._ring is None:
            return
        room = min(MAX_IN_BATCH - len(self.waiting), end - self._ring.next_number)
        _, more = self._ring.read_entries(room)
        if len(more):
            # The ring of another version has reports of its verdicts.
            more = converted(more, END)
            self.waiting = np.concatenate([self.waiting, more]) if len(self.waiting) else more

    @property
    def is_due(self) -> bool:
        """Whether a batch is due for them alone. Fewer wait for the next batch, a heartbeat at the latest."""
        return len(self.waiting) >= MAX_IN_BATCH

    def take(self, count: int) -> int:
        """Count the first ``count`` as taken by a batch. Return the number of the next: as :meth:`release` takes it."""
        self.waiting = self.waiting[count:]
        return self._ring.next_number - len(self.waiting) if self._ring else 0

    def release(self, up_to_number: int) -> None:
        """Let the kernel write over the reports below a number: they are in the spool."""
        if self._ring is not None:
            self._ring.release(up_to_number)
