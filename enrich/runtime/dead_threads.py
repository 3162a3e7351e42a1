"""Notices the death of a thread: the process then says so on /readyz and ends, and is restarted.

A thread that ends by an unexpected error leaves its process alive, with a part of its work undone: healthy to look at.
Python tells of it once, by :func:`threading.excepthook`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import structlog

log = structlog.get_logger("kubeweir")

_dead: list[str] = []
"""What is known of each thread that has died, in words."""


def end_on_dead_threads(end: Callable[[], None]) -> None:
    """Call ``end`` once when the first thread of this process dies. ``end`` must not wait for other threads."""

    def on_death(died: threading.ExceptHookArgs) -> None:
        if died.exc_type is SystemExit or died.exc_value is None:
            return
        name = died.thread.name if died.thread else "unknown"
        log.error("a thread died; stopping, because its work is not done any more", thread=name,
                  exc_info=died.exc_value)  # fmt: skip
        _dead.append(f"the thread {name} died: {died.exc_type.__name__}: {died.exc_value}")
        if len(_dead) == 1:
            end()

    threading.excepthook = on_death


def dead_thread() -> str | None:
    """Return which thread has died, and of what; None if none has."""
    return _dead[0] if _dead else None
