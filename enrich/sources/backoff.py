"""How long a watch waits before it asks the API server again.

Two things are counted apart, because their costs differ a thousandfold: streams that failed, and complete lists. A
server that answers lists and breaks watches would otherwise be asked for all pods of the cluster several times a
second, by every node.
"""

from __future__ import annotations

import random
import time
from typing import Final

FIRST_S: Final = 0.5
_MAX_S: Final = 30.0
_MAX_RETRY_AFTER_S: Final = 60.0
"""The longest wait that a server's ``Retry-After`` may ask for: a longer one would leave policy out of date."""
_SHORT_S: Final = 1.0
"""An attempt that ends sooner without a change counts as a failure."""
_LASTED_S: Final = 10.0
"""A stream that lasted so long ends the backoff of streams."""
_LASTED_AFTER_LIST_S: Final = 60.0
"""A stream that lasted so long ends the backoff of lists."""
_TOO_MANY: Final = 3
"""So many in a row are a problem that people should know."""


class Backoff:
    """Counts failures in a row, and makes the wait after each twice as long, from ``first_s`` to 30 s."""

    def __init__(self, first_s: float = FIRST_S) -> None:
        self.failures = 0
        self._first_s = first_s

    def reset(self) -> None:
        """Note a success."""
        self.failures = 0

    def failed(self, retry_after_s: float = 0.0) -> float:
        """Count a failure, and return how many seconds to wait.

        ``retry_after_s``: how long the server asked for, in ``Retry-After``; the wait is never shorter than that."""
        self.failures += 1
        wait_s = min(self._first_s * 2.0 ** min(self.failures - 1, 16), _MAX_S) * _between(0.5, 1.0)
        return max(wait_s, min(retry_after_s, _MAX_RETRY_AFTER_S) * _between(1.0, 1.2))


class Pace:
    """The pace of one watch: it notes how each attempt to list and follow a kind went, and says what to wait."""

    def __init__(self, first_s: float = FIRST_S) -> None:
        self._streams, self._lists = Backoff(first_s), Backoff(first_s)
        self._began = 0.0
        self._streaming_since: float | None = None
        self._brought = False
        self._ended_at_once = 0

    def begin(self) -> None:
        """Start an attempt."""
        self._began, self._streaming_since, self._brought = time.monotonic(), None, False

    def streaming(self) -> None:
        """Note that the stream of this attempt brings changes from now on: its list, if any, is complete."""
        self._streaming_since = time.monotonic()

    def brought(self) -> None:
        """Note a change that the stream brought. What a list or a bookmark says is none."""
        self._brought = True

    def end(self, retry_after_s: float, *, failed: bool, list_next: bool) -> float:
        """End the attempt, and return how many seconds to wait before the next one.

        ``retry_after_s``: how long the server asked for. ``list_next``: whether the next attempt begins with a list.
        (The first list of all does not wait.)"""
        now = time.monotonic()
        lasted_s = now - self._streaming_since if self._streaming_since is not None else 0.0
        if lasted_s >= _LASTED_S or self._brought:
            self._streams.reset()
            self._ended_at_once = 0
        if lasted_s >= _LASTED_AFTER_LIST_S:
            self._lists.reset()
        wait_s = 0.0
        if failed or (now - self._began < _SHORT_S and not self._brought):
            wait_s = self._streams.failed(retry_after_s)
            self._ended_at_once += self._streaming_since is not None and not failed
        return max(wait_s, self._lists.failed(retry_after_s)) if list_next else wait_s

    @property
    def ends_at_once(self) -> bool:
        """Whether the server ends each stream at once, without an error."""
        return self._ended_at_once >= _TOO_MANY

    @property
    def lists_in_vain(self) -> bool:
        """Whether several lists in a row were followed by no stream that lasted."""
        return self._lists.failures >= _TOO_MANY


def _between(least: float, most: float) -> float:
    return random.uniform(least, most)  # noqa: S311 - spreads load
