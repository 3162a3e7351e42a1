"""Counts what became of the batches that Kafka has answered, by the numbers of their ring."""

from __future__ import annotations

from typing import Final

from enrich.wire.batch import Header
from enrich.wire.numbering import REFUSED
from enrich.wire.tally import SpoolTally

_MAX_RINGS: Final = 16
"""Rings that are remembered. The spool seldom has batches of more than two: a restart of the node makes a new one."""


class SettledNumbers:
    """The tally of each ring since the probe started. One thread changes it; any may read it."""

    def __init__(self) -> None:
        self._rings: dict[str, SpoolTally] = {}

    def of(self, ring: str) -> SpoolTally | None:
        """Return the tally of a ring; None before a batch of it counted."""
        return self._rings.get(ring)

    def count(self, header: Header, *, refused: bool) -> None:
        """Count a batch that Kafka has taken, or refused for good, as all before it. Those of a ring come in order."""
        numbers = header.covered
        known = self._rings.get(header.ring) or SpoolTally(begin=numbers.begin, next=numbers.begin, published=0)
        removed = dict(known.removed)
        if missing := numbers.missing(known.next):
            removed[numbers.reason] = removed.get(numbers.reason, 0) + missing
        if refused:
            removed[REFUSED] = removed.get(REFUSED, 0) + header.verdicts
        rings = {ring: tally for ring, tally in self._rings.items() if ring != header.ring}
        rings[header.ring] = SpoolTally(
            begin=known.begin,
            next=max(known.next, numbers.end),
            published=known.published + (0 if refused else header.verdicts),
            removed=removed,
        )
        if len(rings) > _MAX_RINGS:
            del rings[next(iter(rings))]
        # In one step, so that no reader finds a ring without its tally.
        self._rings = rings
