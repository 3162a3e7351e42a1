"""Ends a role that is to stop, even if one of its clients never returns, and lets one begin again."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Final, NoReturn

import structlog

from enrich.runtime.process import Exit

log = structlog.get_logger("kubeweir.streams")

_GRACE_S: Final = 3.0
"""How much longer than WEIR_STOP_TIMEOUT the work of a role may take. The supervisor kills it two seconds later."""


@contextlib.contextmanager
def ending_surely(stop: threading.Event, timeout_s: float) -> Iterator[None]:
    """End the process if the block still runs ``timeout_s`` and 3 s after ``stop`` was set.

    A call of Kafka's client can block for as long as Kafka does not answer, for example the end of a transaction.
    """
    ended = threading.Event()

    def watch() -> None:
        stop.wait()
        if ended.wait(timeout_s + _GRACE_S):
            return
        log.error("the role does not end by itself; ending it. What it has not committed will be read again")
        os._exit(Exit.UNEXPECTED)

    threading.Thread(target=watch, name="end", daemon=True).start()
    try:
        yield
    finally:
        ended.set()


def begin_again(role: str) -> NoReturn:
    """Replace this process by a new one of the same role and process id."""
    os.execv(sys.executable, [sys.executable, "-m", "streams.main", role, "--alone"])  # noqa: S606 - no shell is wanted


def let_signals_end() -> None:
    """Let a signal from here on end the process, as it is or as the one that takes its place. Only the main thread may
    call it."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)


def begin_again_unless(stop: threading.Event, role: str) -> None:
    """Begin again unless the role stops. Only the main thread may call it."""
    let_signals_end()
    if not stop.is_set():
        begin_again(role)
