"""Passes on what a role writes to standard error, and remembers the last lines that are not log lines.

A role that a library ends, by an assertion for example, says why on standard error and nowhere else::

    python: rdkafka_queue.h:1086: rd_kafka_enq_once_del_source_return: Assertion `eonce->refcnt > 0' failed.
    Fatal Python error: Aborted

The stacks follow. The supervisor puts the lines before them beside the exit code, where people look.
"""

from __future__ import annotations

import contextlib
import os
import re
import threading
from collections import deque
from typing import Final

_STDERR: Final = 2
_MAX_LINES: Final = 10
_MAX_LINE: Final = 500
"""Bytes that are remembered of a line."""
_READ: Final = 64 << 10
_LOG_LINE: Final = re.compile(rb"\{|\x1b|\d{4}-\d\d-\d\dT")
"""How a line of the log begins."""
_STACK_LINE: Final = re.compile(rb"\s|Thread 0x|Current thread 0x|Extension modules:")
"""How a line of the stacks begins that faulthandler writes, which are many."""
_END_S: Final = 2.0


class RoleStderr:
    """The standard error of one process, read on a thread of its own until it ends."""

    def __init__(self, descriptor: int) -> None:
        """``descriptor``: the end of a pipe to read from; it is closed at its end."""
        self._descriptor = descriptor
        self._last: deque[str] = deque(maxlen=_MAX_LINES)
        self._thread = threading.Thread(target=self._run, name="stderr", daemon=True)
        self._thread.start()

    def last_lines(self) -> list[str]:
        """Return the last lines that are neither of the log nor of a stack; call it when the process has ended."""
        self._thread.join(_END_S)
        return list(self._last)

    def _run(self) -> None:
        unfinished = b""
        while read := os.read(self._descriptor, _READ):
            text = unfinished + read
            end = text.rfind(b"\n") + 1
            if len(text) - end > _READ:  # too much for a line
                end = len(text)
            self._pass_on(text[:end])
            unfinished = text[end:]
        self._pass_on(unfinished)
        os.close(self._descriptor)

    def _pass_on(self, text: bytes) -> None:
        for line in text.splitlines():
            if line and not _LOG_LINE.match(line) and not _STACK_LINE.match(line):
                self._last.append(line[:_MAX_LINE].decode(errors="replace"))
        # Its reader may have ended, or its disk may be full: the role goes on all the same.
        with contextlib.suppress(OSError):
            while text:
                text = text[os.write(_STDERR, text) :]
