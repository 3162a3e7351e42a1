"""One measured figure."""

from __future__ import annotations

from typing import NamedTuple


class Row(NamedTuple):
    """A line of the table."""

    name: str
    seconds: float
    number: int
    """How many of what the name says were done in this time."""
    about: str = ""
