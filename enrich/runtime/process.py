"""What surrounds the work of a service: exit codes, signals, logging, and the lock that allows one instance."""

from __future__ import annotations

import contextlib
import enum
import fcntl
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import structlog

from enrich.runtime.private import make_private_folder, open_private


class Exit(enum.IntEnum):
    """The exit codes. Supervisors and tests rely on them."""

    OK = 0
    UNEXPECTED = 1
    USAGE = 2
    """A setting or another input is invalid."""
    UNABLE = 3
    """The service cannot run on this machine: it is not root, or bpffs is missing, or the kernel is too old."""
    RUNNING = 4
    """Another instance is running."""
    KAFKA = 5
    """A permanent Kafka error. A restart reads again from the last commit."""


class StopServiceError(Exception):
    """Ends the service with a message for people and an exit code, and without a stack trace."""

    def __init__(self, message: str, code: Exit) -> None:
        super().__init__(message)
        self.code = code


def configure_logs(level: str, style: str) -> None:
    """Log structured lines to stderr. ``style``: json, console, or auto, which is console on a terminal."""
    number = logging.getLevelNamesMapping().get(level.upper())
    if number is None:
        raise StopServiceError(f"WEIR_LOG_LEVEL={level!r}: must be debug, info, warning or error", Exit.USAGE)
    console = style == "console" or (style == "auto" and sys.stderr.isatty())
    renderer = structlog.dev.ConsoleRenderer() if console else structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *([] if console else [structlog.processors.format_exc_info]),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


@contextlib.contextmanager
def only_instance(path: Path) -> Iterator[None]:
    """Lock a file for the block. Raises StopServiceError if another process has locked it."""
    make_private_folder(path.parent, files=path.name)
    with open(path, "a+", opener=open_private) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            owner = file.read().strip() or "unknown"
            raise StopServiceError(
                f"another instance is running, with process id {owner} (lock {path}); "
                "stop it, or set WEIR_RUN_DIR to another folder for this one",
                Exit.RUNNING,
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def stop_on_signals() -> threading.Event:
    """Return an event that SIGTERM and SIGINT set. A second signal ends the process at once."""
    stop = threading.Event()

    def on_signal(number: int, _frame: object) -> None:
        if stop.is_set():
            os._exit(128 + number)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)
    return stop


def fail(error: StopServiceError, program: str) -> int:
    """Write the reason to stderr and return the exit code."""
    sys.stderr.write(f"{program}: {error}\n")
    return int(error.code)
