"""One live view: which records it is sent, how many, and how many more there were.

Nobody reads 5,000 lines a second. So a view is sent 12 records in a quarter of a second at most, denies and audits
before allows, chosen at random among those of that time; beside them, it is sent how many there were of each verdict,
which is exact.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final

import msgspec

from enrich.wire.flow import Flow
from streams.observing.choice import Choice
from streams.observing.observe import LastKeys
from streams.web.viewers import Viewer, sees

SHOWN: Final = 12
"""Records that a view is sent at once, at most."""
MAX_UNDECIDED: Final = 500
"""Records that wait for the API server to say whether they may be shown."""
MAX_UNDECIDED_BYTES: Final = 1 << 20
"""Bytes of them, as they are on the topic."""
_URGENT: Final = frozenset({"deny", "audit"})
_VERDICTS: Final = frozenset({"allow", "deny", "audit"})


class Interval(msgspec.Struct):
    """What a view is sent of a quarter of a second."""

    at: float
    """When it ended, in seconds since 1970."""
    counts: dict[str, int]
    """How many records fitted, by verdict."""
    flows: list[Flow]
    """Those that are shown, oldest first."""
    withheld: int = 0
    """Records of which it could not be found out in time whether they may be shown."""


class _Sample:
    """A random choice among records that come one by one."""

    def __init__(self, chance: random.Random) -> None:
        self._chance, self._seen = chance, 0
        self.flows: list[Flow] = []

    def add(self, flow: Flow) -> None:
        self._seen += 1
        if len(self.flows) < SHOWN:
            self.flows.append(flow)
        elif (place := self._chance.randrange(self._seen)) < SHOWN:
            self.flows[place] = flow


class Watcher:
    """A live view. One thread calls it."""

    def __init__(
        self, choice: Choice, viewer: Viewer, put: Callable[[bytes], bool], chance: random.Random | None = None
    ) -> None:
        """``put`` takes messages, and returns False when it takes no more."""
        self._choice, self._viewer, self._put = choice, viewer, put
        self._chance = chance or random.Random()  # noqa: S311 - it chooses what is shown, and keeps no secret
        self._keys = LastKeys()
        self._undecided: list[tuple[Flow, int]] = []
        self._undecided_bytes = 0
        self._begin()

    def _begin(self) -> None:
        self._counts: dict[str, int] = {}
        self._urgent, self._others = _Sample(self._chance), _Sample(self._chance)
        self._withheld = 0

    def may_match(self, value: bytes) -> bool:
        """Return False for a record that surely does not fit, by its bytes alone."""
        return self._choice.may_match(value)

    def offer(self, flow: Flow, value: bytes) -> None:
        """Take a record of the topic."""
        if flow.logged and self._choice.match(flow, value) and not self._keys.is_repeat(flow.id):
            self._decide(flow, len(value))

    def _decide(self, flow: Flow, size: int) -> None:
        may_see = sees(self._viewer, flow)
        if may_see is None:
            if len(self._undecided) < MAX_UNDECIDED and self._undecided_bytes + size <= MAX_UNDECIDED_BYTES:
                self._undecided.append((flow, size))
                self._undecided_bytes += size
            else:
                self._withheld += 1
        elif may_see:
            # Anybody who may write to the topic can put any text there.
            verdict = flow.disposition if flow.disposition in _VERDICTS else "other"
            self._counts[verdict] = self._counts.get(verdict, 0) + 1
            (self._urgent if verdict in _URGENT else self._others).add(flow)

    def send(self, at: float) -> bool:
        """Send what has come since the last call. Return False if the view takes no more."""
        undecided, self._undecided, self._undecided_bytes = self._undecided, [], 0
        for flow, size in undecided:
            self._decide(flow, size)
        flows = self._urgent.flows + self._others.flows[: SHOWN - len(self._urgent.flows)]
        flows.sort(key=lambda flow: flow.timestamp)
        interval = Interval(at, self._counts, flows, self._withheld)
        self._begin()
        # Encoded anew of what was checked: a line break in the record's own JSON would end the event.
        return self._put(event("flows", msgspec.json.encode(interval)))


def event(name: str, data: bytes) -> bytes:
    """Return a server-sent event. ``data`` is JSON without line breaks."""
    return b"event: %b\ndata: %b\n\n" % (name.encode(), data)
