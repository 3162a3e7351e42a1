"""Runs a reader between the single steps of a writer, where a second thread would seldom run."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any


def at_each_step(file: str, write: Callable[[], None], read: Callable[[], None]) -> None:
    """Call ``write``, and ``read`` before each instruction that ``write`` executes in a module's file."""

    def step(frame: FrameType, _event: str, _arg: Any) -> Callable[..., Any] | None:
        if not frame.f_code.co_filename.endswith(f"/{file}"):
            return None
        frame.f_trace_opcodes = True
        read()
        return step

    before = sys.gettrace()
    sys.settrace(step)
    try:
        write()
    finally:
        sys.settrace(before)
