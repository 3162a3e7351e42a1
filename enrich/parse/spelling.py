"""Finds the known name that a mistyped one is near to."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Final

_LIKENESS: Final = 0.6
"""How alike two names must be, from 0 to 1. ``form`` and ``from`` have 0.75, ``ip`` and ``ipBlock`` 0.44."""


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that is most like ``name`` regardless of case; None if none is like it."""
    by_folded = {one.lower(): one for one in known}
    found = get_close_matches(name.lower(), by_folded, n=1, cutoff=_LIKENESS)
    return by_folded[found[0]] if found else None


def no_such_field(name: str, known: Iterable[str]) -> str:
    """Return the message about a field that does not exist: with the name that is near, else with those that do."""
    fields = list(known)
    near = nearest(name, fields)
    if near is not None:
        return f"there is no such field; did you mean {near}?"
    return f"there is no such field; the fields here are {', '.join(sorted(fields))}"
