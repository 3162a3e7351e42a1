"""Says whether the bearer of a token may read a page. It asks a reviewer, and keeps no other request waiting for that.

The port that asks has one thread, so it never waits here: :meth:`TokenGate.look` returns what is known, or None, and
asks again a moment later. Threads of the gate ask meanwhile. All of it is bounded, because anybody can send tokens:

- A limited number of questions wait; one more is refused at once (503). Tokens that were allowed before have places
  of their own, and are asked about first: made-up ones keep no Prometheus out when its answer must be renewed.
- An answer is kept for a while: yes for a minute, no for ten seconds, no answer at all for one. Each sort is kept for
  so many tokens; made-up ones never displace one that was allowed. Tokens are kept as hashes.
- Whoever is not surely allowed is refused, also if the reviewer cannot answer.
"""

from __future__ import annotations

import hashlib
import itertools
import queue
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

import structlog

log = structlog.get_logger("kubeweir.health")

ALLOWED: Final = 200
UNAUTHENTICATED: Final = 401
FORBIDDEN: Final = 403
UNKNOWN: Final = 503
_KEPT_S: Final = {ALLOWED: 60.0, UNAUTHENTICATED: 10.0, FORBIDDEN: 10.0, UNKNOWN: 1.0}
RENEWING_S: Final = 15.0
_MAX_KEPT: Final = 256
_MAX_ASKED: Final = 18
"""Questions that wait or are being asked; twice as many if their tokens were allowed before."""
_THREADS: Final = 2

Review = Callable[[str, str], int]
"""Takes a token and what its bearer wants to read (a path of the metrics port, or a namespace), and returns one of the
statuses above. It may take seconds."""


class TokenGate:
    """Knows which tokens are allowed. Any thread may call :meth:`look`."""

    def __init__(self, review: Review, clock: Callable[[], float] = time.monotonic, max_kept: int = _MAX_KEPT) -> None:
        """``max_kept``: how many answers of each sort are kept."""
        self._review, self._clock, self._max_kept = review, clock, max_kept
        self._lock = threading.Lock()
        self._known: dict[int, OrderedDict[bytes, float]] = {status: OrderedDict() for status in _KEPT_S}
        """Until when each answer holds, by status and question. Those that allowed are kept beyond that."""
        self._asked: set[bytes] = set()
        self._waiting: queue.PriorityQueue[tuple[bool, int, bytes, str, str]] = queue.PriorityQueue()
        """Whether the token was never allowed, the number of the question, the question, token and path."""
        self._numbers = itertools.count()
        for number in range(_THREADS):
            threading.Thread(target=self._run, name=f"token-review-{number}", daemon=True).start()

    def look(self, token: str, path: str) -> int | None:
        """Return the status for the bearer of a token, None while the reviewer is asked."""
        key = hashlib.sha256(f"{path}\n{token}".encode()).digest()
        with self._lock:
            found = self._find(key)
            if found is not None or key in self._asked:
                return found
            is_new = key not in self._known[ALLOWED]
            if len(self._asked) >= (_MAX_ASKED if is_new else 2 * _MAX_ASKED):
                return UNKNOWN
            self._waiting.put((is_new, next(self._numbers), key, token, path))
            self._asked.add(key)
        return None

    def _find(self, key: bytes) -> int | None:
        for status, kept in self._known.items():
            until = kept.get(key)
            if until is not None and until > self._clock():
                return status
            if status != ALLOWED and (until is None or until + RENEWING_S <= self._clock()):
                kept.pop(key, None)
        return None

    def last(self, token: str, path: str) -> int | None:
        """Return the last answer while it is asked for again, for RENEWING_S beyond its time; else None."""
        key = hashlib.sha256(f"{path}\n{token}".encode()).digest()
        with self._lock:
            known = ((kept.get(key, 0.0), status) for status, kept in self._known.items() if status != UNKNOWN)
            until, status = max(known)
            return status if until + RENEWING_S > self._clock() else None

    def _run(self) -> None:
        while True:
            _, _, key, token, path = self._waiting.get()
            try:
                status = self._review(token, path)
            except Exception:
                # No token may end the thread, and with it the process.
                log.exception("a token could not be reviewed")
                status = UNKNOWN
            with self._lock:
                self._asked.discard(key)
                if status != UNKNOWN:
                    self._known[ALLOWED].pop(key, None)
                kept = self._known[status]
                kept.pop(key, None)
                kept[key] = self._clock() + _KEPT_S[status]
                while len(kept) > self._max_kept:
                    kept.popitem(last=False)
