"""How slow this machine is now. Time limits for what policy allows are stretched by that.

A limit is chosen on an idle machine, where a packet that is not dropped arrives within a millisecond. On an emulated
kernel, or beside much other work, the same packet needs longer, and counting it as lost would be wrong. A longer limit
costs nothing where all arrives, because a wait ends with the last packet.
"""

from __future__ import annotations

import socket
import time
from typing import Final

_DATAGRAMS: Final = 500
_IDLE_S: Final = 0.002
"""How long that many take on the machine for which the limits were chosen (two cores, idle)."""
_ROUNDS: Final = 3
_MOST: Final = 100.0
"""Beyond that a machine stands still, and a wait must end."""


class TooSlowError(Exception):
    """The product itself forgets what a step is about in less time than the machine takes for it: nothing is shown."""


def measured() -> float:
    """Return how many times as long as on an idle machine work like that of attacks takes, 1 to 100."""
    return min(_MOST, max(1.0, max(_datagrams_s() for _ in range(_ROUNDS)) / _IDLE_S))


def check_kept(what: str, seconds: float, took: float) -> None:
    """Raise TooSlowError if a step took longer than the ``seconds`` for which the programs keep ``what``."""
    if took > seconds:
        raise TooSlowError(f"cannot say: this took {took:.0f} s, and the programs keep {what} for {seconds:.0f} s")


def _datagrams_s() -> float:
    """Send datagrams to oneself one after another, as an attack does, and return how long all took."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as own:
        own.bind(("127.0.0.1", 0))
        own.settimeout(60)
        began = time.monotonic()
        for _ in range(_DATAGRAMS):
            own.sendto(b"pace", own.getsockname())
            own.recv(16)
        return time.monotonic() - began
