"""Counts what became of the spool's batches, by the numbers of their ring: those that Kafka has answered, and those
that wait for its answer.

What waits is counted when a batch is appended, and what was published when Kafka answers. So the one is not computed
from the other, and a batch that vanishes in between is missing from both.
"""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass, field
from typing import Final

import msgspec

from enrich.wire.batch import Header
from enrich.wire.numbering import REFUSED
from enrich.wire.tally import SpoolTally

_MAX_RINGS: Final = 16
"""Rings that are remembered. The spool seldom has batches of more than two: a restart of the node makes a new one."""
_MAX_WAITING: Final = 100_000
"""Batches that are counted while they wait; with a longer backlog the count begins anew behind it."""


@dataclass(slots=True)
class _Appended:
    """The batches of a ring that are in the spool and wait for Kafka's answer."""

    first: int
    """The number from which on batches are counted."""
    next: int
    batches: deque[tuple[int, int]] = field(default_factory=deque)
    """For each batch the number after its last verdict, and how many verdicts it has."""
    verdicts: int = 0
    """How many verdicts all of these batches have."""

    def drop_to(self, number: int) -> None:
        """Forget the batches that are answered."""
        while self.batches and self.batches[0][0] <= number:
            self.verdicts -= self.batches.popleft()[1]


class SettledNumbers:
    """The tally of each ring since the probe started. One thread appends, another has the answers; any may read it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        """Held by the thread that writes, of two."""
        self._appended: dict[str, _Appended] = {}
        self._rings: dict[str, SpoolTally] = {}

    def of(self, ring: str) -> SpoolTally | None:
        """Return the tally of a ring; None before a batch of it counted."""
        return self._rings.get(ring)

    def note_appended(self, header: Header) -> None:
        """Note that a batch is in the spool. The batches of a ring are noted in order."""
        numbers = header.covered
        with self._lock:
            known = self._appended.get(header.ring)
            if known is None or len(known.batches) >= _MAX_WAITING:
                known = _Appended(numbers.begin, numbers.begin)
            known.next = max(known.next, numbers.end)
            answered = self._rings.get(header.ring)
            if header.verdicts and (answered is None or answered.next < numbers.end):
                known.batches.append((numbers.end, header.verdicts))
                known.verdicts += header.verdicts
            self._appended[header.ring] = known
            if len(self._appended) > _MAX_RINGS:
                del self._appended[next(iter(self._appended))]
            if answered is not None:
                self._rings = {**self._rings, header.ring: _with_waiting(answered, known)}

    def count(self, header: Header, *, refused: bool) -> None:
        """Count a batch that Kafka has taken, or refused for good. The batches of a ring are counted in order."""
        numbers = header.covered
        with self._lock:
            known = self._rings.get(header.ring) or SpoolTally(begin=numbers.begin, next=numbers.begin, published=0)
            removed = dict(known.removed)
            if missing := numbers.missing(known.next):
                removed[numbers.reason] = removed.get(numbers.reason, 0) + missing
            if refused:
                removed[REFUSED] = removed.get(REFUSED, 0) + header.verdicts
            tally = SpoolTally(
                begin=known.begin,
                next=max(known.next, numbers.end),
                published=known.published + (0 if refused else header.verdicts),
                removed=removed,
            )
            appended = self._appended.get(header.ring)
            rings = {ring: other for ring, other in self._rings.items() if ring != header.ring}
            rings[header.ring] = _with_waiting(tally, appended)
            if len(rings) > _MAX_RINGS:
                del rings[next(iter(rings))]
            # In one step, so that no reader finds a ring without its tally.
            self._rings = rings


def _with_waiting(tally: SpoolTally, appended: _Appended | None) -> SpoolTally:
    """Return a tally with what waits. It is not known while batches of an earlier probe are in the spool: they were not
    counted when they were appended."""
    if appended is None or tally.next < appended.first:
        return msgspec.structs.replace(tally, appended=None, waiting=0)
    appended.drop_to(tally.next)
    return msgspec.structs.replace(tally, appended=max(appended.next, tally.next), waiting=appended.verdicts)
