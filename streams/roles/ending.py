"""Ends a role that is to stop, even if one of its clients never returns."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from typing import Final

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
