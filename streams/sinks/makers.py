"""Tables of functions that make sinks, one for each kind of output in a configuration file."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TypeVar

Maker = TypeVar("Maker")


def checked_makers(file: str, kinds: Collection[str], makers: Mapping[str, Maker]) -> Mapping[str, Maker]:
    """Return ``makers``, one for each kind of output of ``file``. Raises RuntimeError if they are not exactly that.

    Called when a module is imported, so that a kind without a maker stops the service at its start, not when a
    reloaded file uses the kind for the first time.
    """
    wrong = sorted(set(kinds) ^ makers.keys())
    if wrong:
        raise RuntimeError(
            f"{file}: kinds of outputs and makers must be the same; only one side has {', '.join(wrong)}"
        )
    return makers
