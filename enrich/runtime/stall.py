"""When work counts as stalled, and what follows: first not ready, then new clients, then a new process.

1. Work waits and nothing of it gets done for ``WEIR_STALL`` seconds: /readyz says so. It takes that back as soon as
   something gets done, or nothing waits any more.
2. After 5 times that, the clients are replaced: they may hold on to brokers that are gone. The probe makes new
   producers; a role of weir-streams ends its process, which is restarted.
3. After 5 times that again, and again, the same.

New clients are due only if Kafka answers somebody else meanwhile: no new client would change an outage.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

RECOVERY_FACTOR: Final = 5


class Stall:
    """Follows one kind of work. Any thread may call its methods."""

    def __init__(self, limit_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.limit_s = limit_s
        self._clock, self._lock = clock, threading.Lock()
        self._since: float | None = None
        """Since when work has waited without progress; None if none waits."""
        self._renewed_at: float | None = None
        """When new clients were last due or found useless; None if they were not since the last progress."""

    def update(self, *, waits: bool, progressed: bool) -> None:
        """Note whether work waits, and whether any was done since the last call."""
        with self._lock:
            if progressed or not waits:
                self._renewed_at = None
            if not waits:
                self._since = None
            elif progressed or self._since is None:
                self._since = self._clock()

    @property
    def seconds(self) -> float:
        """How long work has waited without any progress."""
        with self._lock:
            return 0.0 if self._since is None else self._clock() - self._since

    @property
    def is_stalled(self) -> bool:
        """Whether work has waited without progress for the limit."""
        return self.seconds >= self.limit_s

    def postpone(self) -> None:
        """Give the clients at least the limit from now on, because Kafka answers no client. When it is back, they may
        find it by themselves."""
        with self._lock:
            since, latest = self._useless_since(), self._due_after_limit()
            if since is not None and since < latest:
                self._renewed_at = latest

    def needs_new_clients(self, is_reachable: Callable[[], bool]) -> bool:
        """Return whether the stall has lasted so long that new clients are due now.

        ``is_reachable`` is called only then; it tells whether Kafka answers a client that is new."""
        with self._lock:
            since = self._useless_since()
            if since is None or self._clock() - since < RECOVERY_FACTOR * self.limit_s:
                return False
        reachable = is_reachable()
        with self._lock:
            # Asked again after the limit. When Kafka is back, the clients have so long to find it by themselves.
            self._renewed_at = self._clock() if reachable else self._due_after_limit()
            return reachable

    def _useless_since(self) -> float | None:
        """Return since when these clients have made no progress; None if no work waits."""
        if self._since is None or self._renewed_at is None:
            return self._since
        return max(self._since, self._renewed_at)

    def _due_after_limit(self) -> float:
        """Return a time of renewal with which new clients are due when the limit is over."""
        return self._clock() - (RECOVERY_FACTOR - 1) * self.limit_s
