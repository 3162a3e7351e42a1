"""Keeps the roles' processes running: starts them, starts again what ended by accident, stops all."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import structlog

from enrich.runtime.process import Exit

log = structlog.get_logger("kubeweir.streams")

_CHECK_S: Final = 0.1
_FIRST_WAIT_S: Final = 1.0
_LONGEST_WAIT_S: Final = 30.0
_STEADY_S: Final = 60.0
"""A process that ran this long is no longer in a row of failures."""
_FINAL: Final = frozenset({Exit.USAGE, Exit.UNABLE, Exit.RUNNING, Exit.KAFKA})
"""Exit codes that another start of the one role would not mend."""
_GRACE_S: Final = 5.0
"""Beyond what a role gives itself for its stop."""


@dataclass(slots=True)
class _Child:
    role: str
    process: subprocess.Popen[bytes]
    started: float
    wait_s: float = _FIRST_WAIT_S
    again_at: float | None = field(default=None)


def supervise(roles: Sequence[str], stop: threading.Event) -> int:
    """Run until ``stop``, or until a role ends for good; the exit code."""
    children = [_start(role) for role in roles]
    code = 0
    try:
        while not stop.wait(_CHECK_S):
            for child in children:
                found = _look(child)
                if found is not None:
                    return found
    finally:
        code = _stop(children)
    return code


def _start(role: str) -> _Child:
    process = subprocess.Popen(
        [sys.executable, "-m", "streams.main", role, "--alone"],
        env={**os.environ, "WEIR_SUPERVISED": "1"},
        stdin=subprocess.DEVNULL,
        # Ctrl-C reaches the whole foreground group; the roles are to hear it from here, once.
        start_new_session=True,
    )
    log.info("started", role=role, pid=process.pid)
    return _Child(role, process, time.monotonic())


def _look(child: _Child) -> int | None:
    """An exit code that ends all, or None."""
    now = time.monotonic()
    if child.again_at is not None:
        if now >= child.again_at:
            fresh = _start(child.role)
            child.process, child.started, child.again_at = fresh.process, fresh.started, None
        return None
    code = child.process.poll()
    if code is None:
        return None
    if code in _FINAL:
        log.error("a role ended for good, stopping all", role=child.role, exit_code=code)
        return code
    wait = _FIRST_WAIT_S if now - child.started > _STEADY_S else child.wait_s
    child.again_at, child.wait_s = now + wait, min(wait * 2, _LONGEST_WAIT_S)
    log.error("a role ended, starting it again", role=child.role, exit_code=code, after_s=wait)
    return None


def _stop(children: Sequence[_Child]) -> int:
    running = [child for child in children if child.process.poll() is None]
    for child in running:
        child.process.terminate()
    patience = float(os.environ.get("WEIR_STOP_TIMEOUT") or 10) + _GRACE_S
    deadline = time.monotonic() + patience
    code = 0
    for child in running:
        try:
            code = code or child.process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            log.error("a role does not stop, killing it", role=child.role)
            child.process.kill()
            child.process.wait()
            code = code or Exit.UNEXPECTED
    return code
