"""Decides when a member of a group leaves its partitions to other members, because it cannot do their work itself.

One worker's destination may be out of reach, its disk full, or a right missing, while another worker could go on. The
topic of alerts has one partition: the worker that has it would keep all alerts from an output.

1. A member that has failed for ``WEIR_STALL`` seconds looks for other members. If there are any, it leaves the group,
   and they get its partitions at once. It says so on /readyz.
2. It comes back after 5 times that, or as soon as the group has no member at all. If it gets partitions again and its
   first attempt fails, it leaves again.
3. A member that is alone goes on trying, because no other could do the work.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

_RETURN_FACTOR: Final = 5
_FORGET_FACTOR: Final = 10
"""So many times the patience after a failure, the next one counts as the first."""
_COUNTS: Final = 3
"""How often the others are counted within the patience."""


class Handover:
    """Decides for one member when it leaves and comes back. One thread may call its methods."""

    def __init__(
        self, others: Callable[[], int | None], patience_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """``others`` returns how many other members the group has, None if that cannot be found out."""
        self._others, self._patience_s, self._clock = others, patience_s, clock
        self._failing_since: float | None = None
        self._failed_at = 0.0
        self._counted_at = float("-inf")
        self._left_at: float | None = None

    def fail(self) -> bool:
        """Note that the work fails. Return whether the member should leave the group."""
        now = self._clock()
        if self._failing_since is None or now - self._failed_at > _FORGET_FACTOR * self._patience_s:
            self._failing_since = now
        self._failed_at = now
        if self.has_left or now - self._failing_since < self._patience_s:
            return False
        return bool(self._count_others())

    def succeed(self) -> None:
        """Note that some of the work has been done."""
        self._failing_since = None

    @property
    def has_left(self) -> bool:
        """Whether the member is outside of its group."""
        return self._left_at is not None

    def leave(self) -> None:
        """Note that the member leaves the group."""
        self._left_at = self._counted_at = self._clock()

    def comes_back(self) -> bool:
        """Return whether a member that has left should join its group again; then it no longer counts as outside."""
        if self._left_at is None:
            return False
        if self._clock() - self._left_at >= _RETURN_FACTOR * self._patience_s or self._count_others() == 0:
            self._left_at = None
        return self._left_at is None

    def _count_others(self) -> int | None:
        """Return how many others there are; None if that is not known, or if they were counted a moment ago."""
        now = self._clock()
        if now - self._counted_at < self._patience_s / _COUNTS:
            return None
        self._counted_at = now
        return self._others()
