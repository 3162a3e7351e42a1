"""What the header of a batch says of cut verdicts (:mod:`enrich.wire.cuts`), about once a second."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Final

from enrich.wire.cuts import Cut

_EVERY_S: Final = 1.0
"""So long a header counts at least. Batches may be much shorter, and a count for each would be noise."""


class CutReport:
    """Compares the kernel's totals with what was reported. It belongs to the batches of one ring."""

    def __init__(
        self,
        read: Callable[[], Mapping[tuple[str, str], int]],
        reported: Mapping[tuple[str, str], int],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``read`` returns the totals by kind; ``reported`` are those of the last header, maybe of another process."""
        self._read, self._clock = read, clock
        self._reported = dict(reported)
        self._since: float | None = None
        """When the totals were read last; None: by the process before."""
        self._next: list[Cut] | None = None

    def cuts(self, *, now: bool = False) -> list[Cut]:
        """Return the cuts for the header of the next batch; with ``now``, up to this moment.

        They are the same until :meth:`mark_reported` is called: a batch may be encoded more than once."""
        if self._next is None:
            self._next = self._made(now=now)
        return self._next

    def mark_reported(self) -> None:
        """Note that the cuts are in the header of a batch."""
        self._next = None

    def has_more(self) -> bool:
        """Return whether anything was cut that no header reports."""
        return any(total != self._reported.get(kind, 0) for kind, total in self._read().items())

    def _made(self, *, now: bool) -> list[Cut]:
        clock = self._clock()
        is_due = now or self._since is None or clock - self._since >= _EVERY_S
        before, totals = self._reported, dict(self._read()) if is_due else self._reported
        elapsed_ms = 0 if self._since is None else max(1, int((clock - self._since) * 1000))
        if is_due:
            self._since, self._reported = clock, totals
        # The kernel's totals never fall: another number means that they are not the ones that were reported.
        return [
            Cut(*kind, verdicts := max(0, total - before.get(kind, 0)), total, elapsed_ms if verdicts else 0)
            for kind, total in totals.items()
            if total
        ]
