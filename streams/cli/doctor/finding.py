"""What `weir doctor` has found about one thing: a line for people, an object for programs."""

from __future__ import annotations

from typing import Literal, NamedTuple

Level = Literal["ok", "warning", "problem"]


class Finding(NamedTuple):
    """One line of the answer."""

    level: Level
    """``problem``: something does not work. ``warning``: it may not, or it is not known."""
    about: str
    text: str
    """What was found; for a warning or a problem also what to do."""


def ok(about: str, text: str) -> Finding:
    """Return a finding about something that works."""
    return Finding("ok", about, text)


def warning(about: str, text: str) -> Finding:
    """Return a finding that somebody should look at."""
    return Finding("warning", about, text)


def problem(about: str, text: str) -> Finding:
    """Return a finding that somebody must act on."""
    return Finding("problem", about, text)
