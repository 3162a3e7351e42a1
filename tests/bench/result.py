"""What a part found: figures with their spread, and counts that add up."""

from __future__ import annotations

import statistics
import sys
import time
from dataclasses import dataclass
from typing import Any, Final

_STARTED: Final = time.monotonic()


class BenchError(RuntimeError):
    """What came out is not what went in, or a part of the machine is missing; the message says what."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One measure of one case, a sample a round. ``aim`` is printed, not asserted."""

    case: str
    measure: str
    samples: tuple[float, ...]
    aim: float | None = None

    @property
    def median(self) -> float:
        """Of the rounds."""
        return statistics.median(self.samples)

    def as_json(self) -> dict[str, Any]:
        """For the file."""
        return {
            "case": self.case,
            "measure": self.measure,
            "median": self.median,
            "min": min(self.samples),
            "max": max(self.samples),
            "samples": list(self.samples),
            "aim": self.aim,
        }


@dataclass(frozen=True, slots=True)
class Part:
    """One part's figures. ``counts``: what went in and what came out, in all rounds."""

    title: str
    how: str
    """How it was measured, in a few sentences."""
    figures: list[Figure]
    counts: dict[str, int]

    def as_json(self) -> dict[str, Any]:
        """For the file."""
        return {
            "title": self.title,
            "how": self.how,
            "figures": [figure.as_json() for figure in self.figures],
            "counts": self.counts,
        }


def say(text: str) -> None:
    """A line of progress on stderr, with the seconds since the start."""
    print(f"[{time.monotonic() - _STARTED:6.1f} s] {text}", file=sys.stderr, flush=True)


def expect(found: int, wanted: int, what: str) -> None:
    """Raises BenchError unless the two are equal."""
    if found != wanted:
        raise BenchError(f"{what}: {found:,} instead of {wanted:,}")
