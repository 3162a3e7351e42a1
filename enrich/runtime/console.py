"""Runs the command line of a program, also where nothing takes its output, or not all characters of it: a full disk, a
closed descriptor, an encoding that lacks a letter of a file's name."""

from __future__ import annotations

import faulthandler
import io
import os
import sys
from collections.abc import Callable
from typing import TextIO

from enrich.runtime.process import Exit


def leave_stdout() -> None:
    """Point standard output at /dev/null: its reader has ended, and Python flushes once more at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def run_console(name: str, command: Callable[[], object]) -> None:
    """Run a command, and exit with its code. A standard output that cannot be written is one line and an exit code."""
    if sys.stdout is None:
        # The caller has closed it, and wants the exit code only.
        sys.stdout = _open_devnull()
    if sys.stderr is None:
        # Otherwise the next file or connection gets its number, and libraries of C write their lines to that.
        sys.stderr = _open_devnull()
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        # A character that the encoding lacks is written as \xe9, as Python does on standard error.
        sys.stdout.reconfigure(errors="backslashreplace")
    # A library of C that aborts, or that the kernel stops, says little. This adds what Python was doing.
    faulthandler.enable()
    code: object = Exit.OK
    try:
        try:
            code = command()
        except SystemExit as stop:
            code = stop.code
        sys.stdout.flush()
    except BrokenPipeError:
        leave_stdout()
    except OSError as error:
        if error.filename is not None:
            raise
        leave_stdout()
        print(f"{name}: standard output cannot be written: {error.strerror}", file=sys.stderr)
        code = Exit.UNABLE
    sys.exit(code)  # type: ignore[arg-type]  # as the command has set it


def _open_devnull() -> TextIO:
    return open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123 - the process uses it to its end
