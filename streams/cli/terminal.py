"""Shared by the commands that print much: a console, and an exit code."""

from __future__ import annotations

from typing import Final

from rich.console import Console

INTERRUPTED: Final = 130
"""Exit code after Ctrl-C, as shells have it."""


class PipeConsole(Console):
    """A console that raises BrokenPipeError; rich would end the process with exit code 1."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError
