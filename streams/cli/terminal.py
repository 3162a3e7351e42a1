"""Shared by the commands that print much: a console, an exit code, the escape of what a terminal would obey, and the
form of tables and lists."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

import click
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


def table_lines(rows: Sequence[Sequence[str]], numbers: Collection[int] = ()) -> Iterator[str]:
    """Yield the lines of a table. ``numbers`` are the columns that have numbers, which stand at the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (
            cell.rjust(width) if column in numbers else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        yield "  ".join(cells).rstrip()


def listed(texts: Sequence[str], most: int) -> str:
    """Return the first ``most`` texts with commas between them, and how many more there are."""
    more = len(texts) - most
    return ", ".join(texts[:most]) + (f" and {more} more" if more > 0 else "")


def counted(number: int, noun: str) -> str:
    """Return a number with a noun, which has an s unless there is one."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def show_progress(text: str) -> None:
    """Write a text over the last one, where a person looks."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\033[Kweir: {text}")
        sys.stderr.flush()


@contextmanager
def progress_removed() -> Iterator[None]:
    """Remove in the end what :func:`show_progress` wrote last, so that an answer or an error begins its own line."""
    try:
        yield
    finally:
        if sys.stderr.isatty():
            sys.stderr.write("\r\033[K")
            sys.stderr.flush()


def say(notes: Sequence[str]) -> None:
    """Print notes for people on standard error. Names in them come from the cluster."""
    for note in notes:
        click.echo(f"weir: {printable(note)}", err=True)
