"""The result of a part: figures with their spread, and counts of input and output."""

from __future__ import annotations

import statistics
import sys
import time
from dataclasses import dataclass
from typing import Any, Final

_STARTED: Final = time.monotonic()


class BenchError(RuntimeError):
    """Output and input differ, or something that the bench needs is missing; the message says what."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One measure of one case, with one sample for each round. ``aim`` is printed and not asserted."""

    case: str
    measure: str
    samples: tuple[float, ...]
    aim: float | None = None

    @property
    def median(self) -> float:
        """The median of the samples."""
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
    """Print a line of progress on stderr, with the seconds since the start."""
    print(f"[{time.monotonic() - _STARTED:6.1f} s] {text}", file=sys.stderr, flush=True)


def expect(found: int, expected: int, what: str) -> None:
    """Raise BenchError unless both numbers are equal."""
    if found != expected:
        raise BenchError(f"{what}: found {found:,}, expected {expected:,}")
