"""Log lines of Faust and the libraries below it, written in this project's format."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable
from typing import Final

import structlog

log = structlog.get_logger("kubeweir.streams")

_SAME_LINE_S: Final = 15.0
_MAX_LINES: Final = 1000
"""Different lines that are remembered; some libraries put values into what should be a form."""
_REFUSED: Final = ("AuthorizationFailed", "SaslAuthenticationFailed", "UnsupportedSaslMechanism", "Unable connect")
"""Parts of aiokafka's lines by which it says that it is refused, which it reports in no other way."""


class _Forward(logging.Handler):
    """Forwards lines of Faust, mode and aiokafka to structlog, with a rate limit: the same line every 15 s at most.

    While Kafka cannot be reached, aiokafka logs dozens of lines a second.
    """

    def __init__(self, on_refused: Callable[[], None]) -> None:
        super().__init__()
        self._on_refused = on_refused
        self._logged_at: dict[tuple[str, str], float] = {}
        self._suppressed: Counter[tuple[str, str]] = Counter()

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        error = record.exc_info[1] if record.exc_info else None
        if any(part in f"{text} {error!r}" for part in _REFUSED):
            self._on_refused()
        line = (record.name, str(record.msg))
        now = time.monotonic()
        if now - self._logged_at.get(line, float("-inf")) < _SAME_LINE_S:
            self._suppressed[line] += 1
            return
        if len(self._logged_at) >= _MAX_LINES:
            self._logged_at.clear()
            self._suppressed.clear()
        self._logged_at[line] = now
        more = {"error": f"{type(error).__name__}: {error}"} if error else {}
        repeated = self._suppressed.pop(line, 0)
        log.log(record.levelno, text.strip(), library=record.name, **more, repeated=repeated)


def quiet_libraries(on_refused: Callable[[], None]) -> None:
    """Let the libraries log warnings and errors only, through our own logger.

    ``on_refused`` is called when a line says that Kafka refuses a connection or a request."""
    root = logging.getLogger()
    root.handlers = [_Forward(on_refused)]
    root.setLevel(logging.WARNING)
    for name in ("faust", "mode", "aiokafka"):
        logging.getLogger(name).setLevel(logging.WARNING)
