"""What surrounds the work of a service: exit codes, signals, logging, and the lock that allows one instance."""

from __future__ import annotations

import contextlib
import enum
import errno
import fcntl
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, TextIO, cast

import structlog

from enrich.runtime.private import make_private_folder
from enrich.runtime.state_file import set_aside


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
        logger_factory=structlog.PrintLoggerFactory(cast("TextIO", _Stderr())),
    )


class _Stderr:
    """Standard error, for lines of the log. What cannot be written is dropped: the reader of a pipe has ended, say, or
    the disk is full. No work ends for a line of the log."""

    def __init__(self) -> None:
        self._stream = sys.stderr

    def write(self, text: str) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._stream.write(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()


@contextlib.contextmanager
def only_instance(path: Path) -> Iterator[None]:
    """Lock a file and its folder for the block. Raises StopServiceError if another process has locked one of them.

    The file tells people who has the lock. On a full disk it may be empty, or missing: the lock of the folder holds."""
    make_private_folder(path.parent, files=path.name)
    with contextlib.ExitStack() as stack:
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        stack.callback(os.close, folder)
        file = _open_lock(path)
        if file is not None:
            stack.enter_context(file)
        for locked in (folder, *([file.fileno()] if file else [])):
            try:
                fcntl.flock(locked, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise StopServiceError(
                    f"another instance is running, with process id {_owner(file)} (lock {path}); "
                    "stop it, or set WEIR_RUN_DIR to another folder for this one",
                    Exit.RUNNING,
                ) from None
        if file is not None:
            with contextlib.suppress(OSError):
                os.ftruncate(file.fileno(), 0)
                os.write(file.fileno(), str(os.getpid()).encode())
        yield


def _open_lock(path: Path) -> BinaryIO | None:
    """Open the file of a lock; None if the disk has no room for it. Anything but a regular file is set aside."""
    if path.is_symlink() or (path.exists() and not path.is_file()):
        set_aside(path, "lock", "it is not a regular file", "the lock is made anew")
    try:
        return os.fdopen(os.open(path, os.O_CREAT | os.O_RDWR | os.O_APPEND | os.O_CLOEXEC, 0o600), "rb")
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            raise
        return None


def _owner(file: BinaryIO | None) -> str:
    """Return the process id in the file of a lock."""
    return (file.read(20).decode(errors="replace").strip() if file else "") or "unknown"


class StopRequest(threading.Event):
    """The request to stop, which a signal makes, or the process itself."""

    def __init__(self) -> None:
        super().__init__()
        self.by_signal = False
        """Whether a signal has arrived: then the process must end, and not begin again."""


def stop_on_signals() -> StopRequest:
    """Return an event that SIGTERM and SIGINT set. A second signal ends the process at once."""
    stop = StopRequest()

    def on_signal(number: int, _frame: object) -> None:
        if stop.by_signal:
            os._exit(128 + number)
        stop.by_signal = True
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)
    return stop


def fail(error: StopServiceError, program: str) -> int:
    """Write the reason to stderr and return the exit code."""
    sys.stderr.write(f"{program}: {error}\n")
    return int(error.code)
