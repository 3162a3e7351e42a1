"""Wait for the work of other threads and processes."""

from __future__ import annotations

import inspect
import reprlib
import time
from collections.abc import Callable
from typing import Final

_VALUES: Final = reprlib.Repr()
_VALUES.maxstring = _VALUES.maxother = 200


def until(true: Callable[[], object], seconds: float = 60) -> None:
    """Wait until a condition is true. A failure shows the condition and the values that it uses."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"not true after {seconds:.0f} s: {described(true)}"
        time.sleep(0.01)


def described(condition: Callable[[], object]) -> str:
    """Return the source of a lambda or the name of a function, and the values of the variables from around it."""
    text: str = getattr(condition, "__qualname__", repr(condition))
    if not inspect.isroutine(condition):
        return text
    try:
        values = dict(inspect.getclosurevars(condition).nonlocals)
        values |= {name: one.default for name, one in inspect.signature(condition).parameters.items()}
        if text.endswith("<lambda>"):
            lines = inspect.getsource(condition).splitlines()
            text = " ".join(line.partition("  # ")[0].strip() for line in lines)
    except (OSError, TypeError, ValueError):  # a function in C, or one that was typed in
        return text
    shown = ", ".join(f"{name}={_VALUES.repr(value)}" for name, value in values.items())
    return f"{text} with {shown}" if shown else text
