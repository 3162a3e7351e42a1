"""Lets Ctrl-C end a query while DuckDB computes.

Python runs its handler of a signal only between DuckDB's tasks, and a single task of a join can last for hours. So the
signal wakes a thread, which tells DuckDB.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def interrupting(interrupt: Callable[[], None]) -> Iterator[None]:
    """Call ``interrupt`` on each SIGINT, in a thread of its own. Only the main thread may enter this."""
    read, write = os.pipe()
    os.set_blocking(write, False)

    def wait() -> None:
        while found := os.read(read, 1):
            if found[0] == signal.SIGINT:
                interrupt()

    waiting = threading.Thread(target=wait, name="interrupt", daemon=True)
    before = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    waiting.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        os.close(write)
        waiting.join()
        os.close(read)
