"""Shared by the commands that print much: a console, an exit code, and the escape of what a terminal would obey."""

from __future__ import annotations

from typing import Final

from rich.console import Console

INTERRUPTED: Final = 130
"""Exit code after Ctrl-C, as shells have it."""


class PipeConsole(Console):
    """A console that raises BrokenPipeError; rich would end the process with exit code 1."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


def printable(text: str) -> str:
    """Return a text with its control characters escaped, which a terminal would obey."""
    return text if text.isprintable() else "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)
