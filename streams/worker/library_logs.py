"""What Faust and what it is made of have to say, as lines of ours."""

from __future__ import annotations

import logging
import time
from collections import Counter
from typing import Final

import structlog

log = structlog.get_logger("kubeweir.streams")

_SAME_LINE_S: Final = 15.0


class _Forward(logging.Handler):
    """Lines of Faust, mode and aiokafka, as ours are written; the same one at most every so often.

    While Kafka is away aiokafka writes dozens a second.
    """

    def __init__(self) -> None:
        super().__init__()
        self._said: dict[tuple[str, str], float] = {}
        self._held: Counter[tuple[str, str]] = Counter()

    def emit(self, record: logging.LogRecord) -> None:
        line = (record.name, str(record.msg))
        now = time.monotonic()
        if now - self._said.get(line, float("-inf")) < _SAME_LINE_S:
            self._held[line] += 1
            return
        self._said[line] = now
        held = self._held.pop(line, 0)
        error = record.exc_info[1] if record.exc_info else None
        more = {"error": f"{type(error).__name__}: {error}"} if error else {}
        log.log(record.levelno, record.getMessage().strip(), library=record.name, **more, repeated=held)


def quiet_libraries() -> None:
    """Warnings and worse only, and through our own logs."""
    root = logging.getLogger()
    root.handlers = [_Forward()]
    root.setLevel(logging.WARNING)
    for name in ("faust", "mode", "aiokafka"):
        logging.getLogger(name).setLevel(logging.WARNING)
