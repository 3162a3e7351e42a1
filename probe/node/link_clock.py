"""When the node's network interfaces appeared and disappeared: bounds of each moment on the wall clock.

Theory of operation. The kernel sends a netlink message for each interface that appears or disappears, but the message
has no time. So the moment is bounded by two observations of the socket, for example:

1. At 12:00:00.000 the socket is empty: everything that happened before is known. The clock has *caught up* until then.
2. At 12:00:00.020 interface 7 appears. Nobody sees it yet.
3. At 12:00:00.050 the message is read. Interface 7 appeared after 12:00:00.000 and by 12:00:00.050.

While the probe is suspended for two seconds between the two observations, the bounds are two seconds apart. They are
wide then, and still true. Verdicts of a pod between its two bounds are not attributed to it.

The clock knows nothing of interfaces that were there before it started. It reads no socket itself: the caller passes
the messages in.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable
from typing import Final, NamedTuple

from probe.node.links import link_messages

_ALL_CHANGED: Final = 0xFFFFFFFF
"""``ifi_change`` of an interface that is new in this namespace; other messages are about a change of one."""
_MAX_REMEMBERED_LINKS: Final = 10_000


class Bounds(NamedTuple):
    """A moment that is known by its bounds, in nanoseconds of the wall clock."""

    after: int
    by: int


class LinkClock:
    """One thread calls observe(); any other may call the other methods."""

    def __init__(self, now_ns: Callable[[], int] = time.time_ns) -> None:
        self._now_ns = now_ns
        self._appeared: dict[int, Bounds] = {}
        self._disappeared: dict[int, Bounds] = {}
        self.caught_up_ns = 0
        """Everything that happened to links before this moment has been observed."""

    def observe(self, message: bytes) -> None:
        """Note the interfaces that appeared and disappeared, from one read of the netlink socket."""
        bounds = Bounds(self.caught_up_ns, self._now_ns())
        for gone, body in link_messages(message):
            index, _, changed = struct.unpack_from("=iII", body, 4)
            if gone:
                self._disappeared[index] = bounds
            elif changed == _ALL_CHANGED:
                self._appeared.setdefault(index, bounds)
        for remembered in (self._appeared, self._disappeared):
            while len(remembered) > _MAX_REMEMBERED_LINKS:
                del remembered[next(iter(remembered))]

    def appeared(self, index: int) -> Bounds | None:
        """Return when an interface appeared, None if it was there before the clock started."""
        return self._appeared.get(index)

    def disappeared(self, index: int) -> Bounds | None:
        """Return when an interface disappeared, None if that was not observed."""
        return self._disappeared.get(index)
