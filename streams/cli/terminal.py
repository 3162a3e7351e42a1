"""Shared by the commands that print much: a console, and what to do when the reader of the output ends."""

from __future__ import annotations

import os
import sys
from typing import Final

from rich.console import Console

INTERRUPTED: Final = 130
"""Exit code after Ctrl-C, as shells have it."""


def leave_stdout() -> None:
    """Point standard output at /dev/null: its reader has ended, and Python flushes once more at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class PipeConsole(Console):
    """A console that raises BrokenPipeError; rich would end the process with exit code 1."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError
