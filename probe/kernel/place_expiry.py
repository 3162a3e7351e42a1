"""Empties places of connections that have expired, a part of the table at a time (``bpf/places.h``)."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable
from typing import Final

from probe.kernel import bpf
from probe.kernel.ends_layout import TRAFFIC_MAP
from probe.kernel.layout import EXPIRE_PLACES
from probe.kernel.maps import Maps

_REQUEST: Final = struct.Struct("=16xII8x")
"""``struct expire_request``."""
_ROUND_S: Final = 60.0
"""How long it takes to look at every place. Connections expire after half a minute to six hours."""
_ROUND_OF_ENDS_S: Final = 20.0
"""The same if connections are reported: their end waits for its turn."""


class PlaceExpiry:
    """Goes round the table of places. One caller at a time."""

    def __init__(self, maps: Maps, clock: Callable[[], float] = time.monotonic) -> None:
        self._maps, self._clock = maps, clock
        self._size = maps["places"].max_entries
        self._round_s = _ROUND_OF_ENDS_S if TRAFFIC_MAP in maps else _ROUND_S
        self._next = 0
        self._at = clock()

    def step(self) -> None:
        """Look at the part of the table that is due since the last call."""
        now = self._clock()
        due = self._size * (now - self._at) / self._round_s
        self._at = now
        self.look_at(min(self._size, int(due) + 1))

    def look_at(self, count: int) -> None:
        """Look at the next ``count`` places, or a few more."""
        for _ in range(-(-count // EXPIRE_PLACES)):
            expire(self._maps, self._next)
            self._next = (self._next + EXPIRE_PLACES) % self._size


def expire(maps: Maps, first: int, *, is_last: bool = False) -> int:
    """Empty those of ``EXPIRE_PLACES`` places that have expired, and return how many are in use.

    ``is_last``: report all connections in them, and return how many their ring has no room for."""
    found, _ = bpf.program_run(maps.programs["expire_places"], _REQUEST.pack(first, is_last))
    return found
