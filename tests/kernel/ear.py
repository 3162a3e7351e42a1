"""What really arrives at an interface: frames are recognized by a mark in them."""

from __future__ import annotations

import itertools
import socket
import struct
import time
from collections.abc import Callable

from netns import Space, run_in

_ALL = 0x0003
"""ETH_P_ALL in linux/if_ether.h."""
_OUTGOING = 4
"""PACKET_OUTGOING in linux/if_packet.h: what the host itself sends."""
_marks = itertools.count(1)


def new_mark() -> bytes:
    """Return eight bytes that no other frame has."""
    return b"mark" + struct.pack("!I", next(_marks))


class Ear:
    """A packet socket that hears every frame that arrives at an interface."""

    def __init__(self, space: Space, device: str = "eth0") -> None:
        self._socket = run_in(space, lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ALL)))
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        self._socket.bind((device, _ALL))

    def frames_until(self, last: Callable[[bytes], bool], seconds: float = 60) -> list[bytes]:
        """Return the frames that arrived up to the one for which ``last`` is true. Raises TimeoutError."""
        found: list[bytes] = []
        deadline = time.monotonic() + seconds
        while True:
            self._socket.settimeout(max(deadline - time.monotonic(), 0.001))
            frame, address = self._socket.recvfrom(1 << 16)
            if address[2] == _OUTGOING:
                continue
            found.append(frame)
            if last(frame):
                return found

    def heard(self, marks: list[bytes], last: bytes, seconds: float = 60) -> list[bytes]:
        """Return which of the marks arrived, up to ``last``, which must arrive. Raises TimeoutError."""
        frames = self.frames_until(lambda frame: last in frame, seconds)
        return [mark for mark in marks if any(mark in frame for frame in frames)]

    def close(self) -> None:
        self._socket.close()
