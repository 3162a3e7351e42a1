"""Lets a few questions be answered at once, of different people in turn, and refuses what is too much.

Questions take up to a minute each, and cannot be put aside once they run. So that one person with many tabs, or a
script, does not keep others waiting for long:

- A person has a limited number of questions, those that wait included. One more is refused, and told why.
- Where several run at once, one place is left for others.
- When a place is free, the next question is of somebody who has the fewest running; among those, of whoever had their
  last turn the longest ago. Questions of one person are answered in their order.

Without authentication nobody can be told apart: all are one person, who has the limits of all.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final

OF_ONE: Final = 6
"""Questions of one person that are answered or wait: as many as a browser has connections to one server."""
OF_ALL: Final = 48
"""The same of all people together, beside the first one of each."""


_LOOK_S: Final = 0.5
"""How often the page looks whether the browser of a question that waits is still there."""


class TooManyError(Exception):
    """A question is not asked. The message says why, to a person."""


class GoneError(Exception):
    """A question is not asked any more, because its browser has gone: the page was reloaded, for example."""

    def __init__(self) -> None:
        super().__init__("The browser that asked is gone.")


class Turns:
    """The places, and who waits for one. The event loop alone calls it."""

    def __init__(self, at_once: int, what: str, each: int = OF_ONE, most: int = OF_ALL) -> None:
        """``what`` names the questions in messages, in the plural, such as "maps"."""
        self._free, self._what, self._each, self._most = at_once, what, each, most
        self._running_each = max(1, at_once - 1)
        self._running: Counter[str] = Counter()
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}
        self._turn_of: dict[str, int] = {}
        """The number of the last turn of everybody who has another question."""
        self._turns = 0

    @contextlib.asynccontextmanager
    async def turn(self, asker: str, is_gone: Callable[[], Awaitable[bool]]) -> AsyncIterator[None]:
        """Wait for a turn, which lasts for the block. ``asker``: whose it is, empty without authentication.
        ``is_gone`` says whether the browser has gone that asked, so that nobody waits for its question. Raises
        TooManyError, GoneError."""
        self._check(asker)
        place = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(asker, deque()).append(place)
        self._give()
        try:
            while True:
                await asyncio.wait((place,), timeout=_LOOK_S)
                if await is_gone():
                    raise GoneError
                if place.done():
                    break
            yield
        finally:
            if place.done():
                self._end(asker)
            else:
                self._leave(asker, place)

    def _check(self, asker: str) -> None:
        """Raise TooManyError if a person has as many questions as they may have, or if all together have."""
        own = self._running[asker] + len(self._waiting.get(asker, ()))
        if asker and own >= self._each:
            raise TooManyError(
                f"{own} {self._what} of yours are answered now or wait for their turn, as many as may: wait for their "
                "answers, or close other tabs."
            )
        # Somebody may have accounts without number. Whoever has no other question always has room for one: a connection
        # is needed for each, and the server has a limit of those.
        if own and self._running.total() + sum(map(len, self._waiting.values())) >= self._most:
            raise TooManyError(f"Too many {self._what} wait for their turn: try again.")

    def _give(self) -> None:
        """Give free places to those whose turn it is."""
        while self._free:
            may = [one for one in self._waiting if not one or self._running[one] < self._running_each]
            if not may:
                return
            asker = min(may, key=lambda one: (self._running[one], self._turn_of.get(one, -1)))
            place = self._waiting[asker].popleft()
            if not self._waiting[asker]:
                del self._waiting[asker]
            self._turns += 1
            self._turn_of[asker] = self._turns
            self._running[asker] += 1
            self._free -= 1
            place.set_result(None)

    def _end(self, asker: str) -> None:
        self._running[asker] -= 1
        self._free += 1
        self._give()
        self._forget(asker)

    def _leave(self, asker: str, place: asyncio.Future[None]) -> None:
        self._waiting[asker].remove(place)
        if not self._waiting[asker]:
            del self._waiting[asker]
        self._forget(asker)

    def _forget(self, asker: str) -> None:
        """Forget somebody who has no question any more: anybody may come once."""
        if not self._running[asker]:
            del self._running[asker]
            if asker not in self._waiting:
                self._turn_of.pop(asker, None)
