"""Ends a role that must be restarted, even if one of its clients never returns."""

from __future__ import annotations

import os
import threading
import time
from typing import Final

import structlog

from enrich.runtime.process import Exit

log = structlog.get_logger("kubeweir.streams")

_PATIENCE_S: Final = 20.0


def end_surely(stop: threading.Event) -> None:
    """Set ``stop``, and end the process if it still runs 20 s later: a transaction that Kafka does not end blocks."""
    stop.set()
    threading.Thread(target=_end_later, name="end", daemon=True).start()


def _end_later() -> None:
    time.sleep(_PATIENCE_S)
    log.error("the role does not end by itself; ending it. What it has not committed will be read again")
    os._exit(Exit.UNEXPECTED)
