"""The wall clock without jumps that do not last.

A clock may be an hour ahead for a moment, until the time service puts it right: windows would be empty, every alert
would be resolved, and every pause over. So a jump counts only when the clock has stayed there for a while. Until then
the clock goes on from where it was, by the monotonic clock, which does not jump.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

_MAX_STEP_S: Final = 2.0
"""Smaller steps are followed at once."""
_LASTS_S: Final = 60.0


class SteadyClock:
    """Returns seconds since the epoch."""

    def __init__(self, wall: Callable[[], float] = time.time, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._wall, self._monotonic = wall, monotonic
        self._offset = wall() - monotonic()
        self._jumped_to: float | None = None
        self._jumped_at = 0.0

    def __call__(self) -> float:
        """Return the time."""
        monotonic = self._monotonic()
        offset = self._wall() - monotonic
        if abs(offset - self._offset) <= _MAX_STEP_S:
            self._offset, self._jumped_to = offset, None
        elif self._jumped_to is None or abs(offset - self._jumped_to) > _MAX_STEP_S:
            self._jumped_to, self._jumped_at = offset, monotonic
        elif monotonic - self._jumped_at >= _LASTS_S:
            self._offset, self._jumped_to = offset, None
        return monotonic + self._offset
