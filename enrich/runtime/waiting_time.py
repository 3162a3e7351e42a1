"""How long the oldest item of a queue has waited, if all that is known is how far the queue was filled and emptied.

Example: a topic ended at offset 100 when it was looked at at 12:00:00, and at 130 at 12:00:05. At 12:00:20 a reader has
done everything before offset 110. The next item, 110, came between the two looks, so it has waited for 15 s, or up to
5 s more.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final

_MAX_LOOKS: Final = 512
"""Beyond it, every second look is forgotten: of an item that has waited for days, minutes need not be known."""


class WaitingTime:
    """Remembers where a queue ended at each look. Any thread may call its methods."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._looks: deque[tuple[float, int]] = deque()
        self._lock = threading.Lock()

    def look(self, end: int, done: int) -> float:
        """Note that the queue ends before item ``end``, and that all before ``done`` is done.

        Return how many seconds the oldest item has waited, at least; 0 if none waits. What waited already at the first
        look counts from then."""
        now = self._clock()
        with self._lock:
            if self._looks and self._looks[-1][1] > end:
                # It was emptied from its end, or is another queue of the same name: a topic that was made again.
                self._looks.clear()
            if not self._looks or self._looks[-1][1] < end:
                self._looks.append((now, end))
            if len(self._looks) > _MAX_LOOKS:
                self._looks = deque(list(self._looks)[::2])
            while self._looks and self._looks[0][1] <= done:
                self._looks.popleft()
            return now - self._looks[0][0] if self._looks else 0.0
