"""Wait for the work of other threads and processes.

A look at a service takes CPU, in the service too, which whatever is waited for needs on a busy machine. So the pause
between two looks grows with the time waited: at first a test loses a moment, later at most a tenth of the wait.
"""

from __future__ import annotations

import contextlib
import inspect
import os
import reprlib
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

_VALUES: Final = reprlib.Repr()
_VALUES.maxstring = _VALUES.maxother = 200


_GROWTH: Final = 0.1
_LONGEST_PAUSE_S: Final = 0.25
"""What is true for a second only must not be missed."""


def until(true: Callable[[], object], seconds: float = 240) -> None:
    """Wait until a condition is true. A failure shows the condition and the values that it uses."""
    started = time.monotonic()
    while not true():
        assert time.monotonic() < started + seconds, f"not true after {seconds:.0f} s: {described(true)}"
        pause(started, 0.01)


def pause(started: float, least_s: float) -> None:
    """Sleep between two looks of a wait that began at ``started``, by the steady clock."""
    time.sleep(min(max(least_s, _GROWTH * (time.monotonic() - started)), _LONGEST_PAUSE_S))


def freeze(pid: int) -> None:
    """Stop a process, and wait until none of its threads runs: SIGSTOP takes effect a moment after ``kill``."""
    os.kill(pid, signal.SIGSTOP)
    until(lambda: is_frozen(pid))


def is_frozen(pid: int) -> bool:
    """Return whether each thread of a process is stopped, or has ended."""
    for stat in Path(f"/proc/{pid}/task").glob("*/stat"):
        # A thread may end between the two looks.
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if stat.read_text().rpartition(")")[2].split()[0] not in "TtZX":
                return False
    return True


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
