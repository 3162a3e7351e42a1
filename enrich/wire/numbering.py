"""The numbers that a batch covers, and which of them are missing from it because the probe removed their verdicts.

An example: a batch had the numbers 100 to 119. A full spool kept 105 and 107, so the batch begins with number 105, and
says ``"kept":[[105,1],[107,1]],"removed":["spool_full",100,20]``. Later the spool removed these too: the batch begins
with number 120, has no verdicts, and says ``"removed":["spool_full",100,20]``. So no number between two batches of a
ring is missing without a reason, and a reader that has seen a part of them already knows which are new.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from enrich.wire.bounds import MAX_COUNT

SPOOL_FULL: Final = "spool_full"
"""The reason of losses: removed to make room."""
REFUSED: Final = "refused"
"""The reason of losses: Kafka refused the batch."""
WITH_NUMBERS: Final = frozenset({SPOOL_FULL, REFUSED})
"""The reasons of losses whose verdicts had numbers. What is lost in the kernel never gets one."""

Run = tuple[int, int]
"""A number, and how many follow each other from it on."""
Removed = tuple[str, int, int]
"""A reason, and the run of all numbers that the batch had before."""


class Numbers(NamedTuple):
    """The numbers of a batch."""

    begin: int
    """The first that it covers."""
    end: int
    """The number after the last that it covers."""
    present: Sequence[Run]
    reason: str = ""
    """Why those that are not present are missing; empty if all are present."""

    @classmethod
    def of(cls, first: int, verdicts: int, kept: Sequence[Run] | None, removed: Removed | None) -> Numbers:
        """Return the numbers that these fields of a header describe."""
        present = [(first, verdicts)] if kept is None else kept
        end = sum(present[-1]) if present else first
        if removed is not None:
            reason, begin, count = removed
            return cls(begin, begin + count, present, reason)
        # Earlier versions do not say what was removed in front of the first and behind the last that was kept.
        return cls(first, end, present, SPOOL_FULL if kept else "")

    def missing(self, since: int) -> int:
        """Return how many are missing, of those from the number ``since`` on."""
        if not self.reason:
            return 0
        present = sum(max(0, first + count - max(first, since)) for first, count in self.present)
        return max(0, self.end - max(self.begin, since) - present)


def problem_of(first: int, verdicts: int, kept: Sequence[Run] | None, removed: Removed | None) -> str | None:
    """Return why these fields of a header contradict each other, None if they do not."""
    if first + verdicts > MAX_COUNT:
        return f"first or verdicts is out of range: {first}, {verdicts}"
    if kept is not None:
        if sum(count for _, count in kept) != verdicts:
            return "kept does not add up to verdicts"
        number = first
        for start, count in kept:
            if count < 1 or start < number or start + count > MAX_COUNT:
                return f"the runs in kept must rise from first; found {start}, {count}"
            number = start + count
    if removed is not None:
        _, begin, count = removed
        end = sum(kept[-1]) if kept else first + verdicts
        if not begin <= first <= end <= begin + count <= MAX_COUNT:
            return f"removed must cover all numbers from {first} to {end}; found {begin}, {count}"
    return None
