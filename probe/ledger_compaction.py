"""Keeps the ledger small on nodes where pods and policies come and go: forgets the numbers that nothing refers to.

THEORY OF OPERATION. A number may be in three sorts of places: the policy that is in force, or that is to be installed;
deny windows, whose counts are not verdicts yet; and verdicts in the ring that the probe has not appended to its spool.
A batch in the spool has the meanings of its numbers, so it needs the ledger no more. A compaction takes its time:

1. When the ledger has grown, note the numbers that nothing refers to: the candidates.
2. Ten minutes later, drop the candidates that are in use again. Packets and deny windows of the old policy are long
   over; a window that is not, because the ring is full, is looked at. Note the rings' ends: any verdict and any report
   of a connection with a candidate is before them, because nothing can make another.
3. When the rings have been read up to there, forget the candidates that still nothing refers to.

Nothing of this is kept on disk. A probe that is restarted begins again at step 1.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence, Set
from typing import Final, Protocol

import structlog

from probe.ledger import KINDS, Ledger

log = structlog.get_logger("kubeweir.probe")

References = Mapping[str, Set[int]]
"""Numbers by kind."""
_GROWN: Final = 10_000
"""How many numbers more than twice those in use make a compaction worth its while."""
_REST_S: Final = 600.0


class RingPosition(Protocol):
    """How far a ring has been written and read, as numbers of its entries."""

    @property
    def consumer_number(self) -> int:
        """The number of the first entry that has not been released."""

    @property
    def producer_number(self) -> int:
        """The number that the next entry will get."""


class Holder(Protocol):
    """Something that refers to numbers."""

    def references(self) -> References:
        """Return the numbers."""


class LedgerCompaction:
    """The compaction of one ledger. The ledger's writer calls :meth:`step` now and then."""

    def __init__(
        self,
        ledger: Ledger,
        ring: RingPosition,
        clock: Callable[[], float] = time.monotonic,
        grown: int = _GROWN,
        ends: RingPosition | None = None,
    ) -> None:
        """``ends``: the ring of reports of connections, if there is one."""
        self._ledger, self._clock, self._grown = ledger, clock, grown
        self._rings = [ring] if ends is None else [ring, ends]
        self._candidates: dict[str, set[int]] = {}
        self._noted_at = 0.0
        self._ends: list[int] | None = None
        """The rings' ends at step 2."""
        self._in_use = 0
        """How many numbers were in use when it was last looked."""

    def step(self, holders: Sequence[Holder], forget: Callable[[References], None]) -> None:
        """Take the next step if it is due.

        ``holders`` are all that refer to numbers. ``forget`` is told which ones are forgotten, before the ledger
        forgets them: the compiler remembers numbers that it does not use.
        """
        if not self._candidates:
            if len(self._ledger) > 2 * self._in_use + self._grown:
                self._note(holders)
        elif self._ends is None:
            if self._clock() - self._noted_at >= _REST_S:
                self._drop(holders)
                self._ends = [ring.producer_number for ring in self._rings]
        elif all(ring.consumer_number >= end for ring, end in zip(self._rings, self._ends, strict=True)):
            self._drop(holders)
            forget(self._candidates)
            self._forget()

    def _note(self, holders: Sequence[Holder]) -> None:
        used = _together(holders)
        self._in_use = sum(map(len, used.values()))
        self._candidates = {kind: known - used[kind] for kind, known in self._ledger.numbers().items()}
        self._noted_at = self._clock()

    def _drop(self, holders: Sequence[Holder]) -> None:
        used = _together(holders)
        self._candidates = {kind: some - used[kind] for kind, some in self._candidates.items()}

    def _forget(self) -> None:
        self._ledger.forget(self._candidates)
        log.info("ledger compacted", forgotten=sum(map(len, self._candidates.values())), kept=len(self._ledger))
        self._candidates, self._ends = {}, None


def _together(holders: Sequence[Holder]) -> dict[str, set[int]]:
    found: dict[str, set[int]] = {kind: set() for kind in KINDS}
    for holder in holders:
        for kind, numbers in holder.references().items():
            found[kind] |= numbers
    return found
