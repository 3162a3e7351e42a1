"""A pause of Python's garbage collector while a long list is read.

Each of a hundred thousand new objects brings the next collection nearer, and none of them is garbage: the collector
would search all of them, again and again. Afterwards they are frozen, so that later collections leave them alone.
"""

from __future__ import annotations

import contextlib
import gc
import threading
from collections.abc import Iterator

_paused = threading.Lock()


@contextlib.contextmanager
def gc_paused() -> Iterator[contextlib.ExitStack]:
    """Pause the collector for the block, or until the yielded stack is closed. Only one thread at a time does so."""
    with contextlib.ExitStack() as stack:
        if gc.isenabled() and _paused.acquire(blocking=False):
            stack.callback(_paused.release)
            stack.callback(gc.enable)
            stack.callback(gc.freeze)
            gc.disable()
        yield stack
