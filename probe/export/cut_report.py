"""Counts the cut verdicts for the headers of batches (:mod:`enrich.wire.cuts`), about once a second."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

from enrich.wire.batch import EndpointRef, Verdict
from enrich.wire.cuts import ALLOWED, DENIED, LIMIT, Cut, CutPart, parts_of

_EVERY_S: Final = 1.0
"""The shortest time that a header counts. Batches may be much shorter, and a count for each would be noise."""


class CutSource(NamedTuple):
    """Where the counts of a ring come from."""

    totals: Callable[[], Mapping[tuple[str, str], int]]
    """Returns how many verdicts were cut in the life of the ring, by kind."""
    take_limited: Callable[[], Sequence[tuple[int, int, int]]] = tuple
    """Returns endpoint number, kind of verdict and count of what the limits have cut since the last call, about."""
    endpoint: Callable[[int], EndpointRef | None] = lambda _: None
    """Returns the pod of an endpoint number, None if it is unknown."""


class CutReport:
    """Compares the kernel's totals with what was reported. It belongs to the batches of one ring."""

    def __init__(
        self,
        source: CutSource,
        reported: Mapping[tuple[str, str], int],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``reported`` are the totals of the last header, maybe of another process."""
        self._source, self._clock = source, clock
        self._reported = dict(reported)
        self._since: float | None = None
        """When the totals were read last; None: by the process before."""
        self._next: list[Cut] | None = None

    def cuts(self, *, now: bool = False) -> list[Cut]:
        """Return the cuts for the header of the next batch; with ``now``, up to this moment.

        They are the same until :meth:`mark_reported` is called: a batch may be encoded more than once."""
        if self._next is None:
            clock = self._clock()
            is_due = now or self._since is None or clock - self._since >= _EVERY_S
            self._next = self._new(clock) if is_due else [Cut(*kind, 0, total) for kind, total in self._known()]
        return self._next

    def mark_reported(self) -> None:
        """Note that the cuts are in the header of a batch."""
        self._next = None

    def has_more(self) -> bool:
        """Return whether anything was cut that no header reports."""
        return any(total != self._reported.get(kind, 0) for kind, total in self._source.totals().items())

    def _known(self) -> list[tuple[tuple[str, str], int]]:
        return [(kind, total) for kind, total in self._reported.items() if total]

    def _new(self, clock: float) -> list[Cut]:
        """Read the totals, and return what was cut since they were read last."""
        before, elapsed_ms = self._reported, 0 if self._since is None else max(1, int((clock - self._since) * 1000))
        # Whose they are is read first, so that the totals have all of them.
        parts = self._parts()
        self._since, self._reported = clock, dict(self._source.totals())
        cuts = []
        for kind, total in self._known():
            # The kernel's totals never fall: another number means that they are not the ones that were reported.
            verdicts = max(0, total - before.get(kind, 0))
            known = _at_most(parts.get(kind, []), verdicts)
            cuts.append(Cut(*kind, verdicts, total, elapsed_ms if verdicts else 0, known))
        return cuts

    def _parts(self) -> dict[tuple[str, str], list[CutPart]]:
        counts: dict[tuple[str, str], list[tuple[str, str, int]]] = {}
        for number, kind, count in self._source.take_limited():
            ref, verdict = self._source.endpoint(number), Verdict(kind)
            part = (ref.namespace if ref else "", verdict.name.lower(), count)
            counts.setdefault((LIMIT, ALLOWED if verdict is Verdict.ALLOW else DENIED), []).append(part)
        return {kind: parts_of(found) for kind, found in counts.items()}


def _at_most(parts: Sequence[CutPart], verdicts: int) -> list[CutPart]:
    """Return the parts without what they have too many: the kernel counts a verdict twice, at two moments, and the
    last header may have had the first count."""
    found = []
    for part in parts:
        count = min(part.verdicts, verdicts)
        verdicts -= count
        if count:
            found.append(CutPart(part.namespace, part.disposition, count))
    return found
