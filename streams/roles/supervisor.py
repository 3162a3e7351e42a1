"""Supervises the processes of the roles.

- Each role is started as a process of its own, so that one that crashes or leaks harms no other.
- A role that ends unexpectedly is restarted with an exponential backoff (1 s to 30 s). After a minute of running, the
  backoff begins at 1 s again.
- A role that ends with an exit code that a restart hardly changes (a wrong setting, a deleted topic) is tried again
  after the longest backoff, and the others go on: a mistake in a file of alert rules must not stop the records. If no
  role is left that runs, the program ends with that code.
- What a role writes to standard error is passed on. If it ends unexpectedly, the log says by which signal, and what it
  wrote last (:mod:`streams.roles.role_stderr`).
- When the credentials of Kafka are renewed, the roles are restarted one after the other: each ends as at a stop, and
  starts at once. That is not a failure, whatever its exit code.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import structlog

from enrich.runtime.process import Exit
from streams.roles.role_stderr import RoleStderr

log = structlog.get_logger("kubeweir.streams")

SUPERVISED: Final = "WEIR_SUPERVISED"
"""Set to 1 in the environment of the roles."""
_CHECK_S: Final = 0.1
_FIRST_BACKOFF_S: Final = 1.0
_MAX_BACKOFF_S: Final = 30.0
_STABLE_S: Final = 60.0
"""A process that ran this long is stable: its next failure starts with the first backoff."""
_FINAL: Final = frozenset({Exit.USAGE, Exit.UNABLE, Exit.RUNNING, Exit.KAFKA})
"""Exit codes of errors that somebody must mend: a restart soon after would end in the same way."""
_GRACE_S: Final = 5.0
"""How much longer than its own WEIR_STOP_TIMEOUT a role gets before it is killed."""


@dataclass(slots=True)
class _Child:
    role: str
    process: subprocess.Popen[bytes]
    started: float
    stderr: RoleStderr | None = None
    backoff_s: float = _FIRST_BACKOFF_S
    restart_at: float | None = field(default=None)
    refused: int = 0
    """Its exit code, while it waits because of an error that somebody must mend."""
    kill_at: float | None = field(default=None)
    """When it is killed if it has not ended by then, during a restart that was planned."""

    def begin_again(self) -> None:
        """Start its process again."""
        started = _start(self.role)
        self.process, self.started, self.stderr = started.process, started.started, started.stderr
        self.restart_at, self.kill_at, self.refused = None, None, 0

    def ending(self, code: int) -> dict[str, object]:
        """Return how its process has ended, for the log."""
        found: dict[str, object] = {"exit_code": code}
        if code < 0:
            found["signal"] = signal.Signals(-code).name if -code in set(signal.Signals) else str(-code)
        if self.stderr is not None and (lines := self.stderr.last_lines()):
            found["last_lines"] = lines
        return found


def supervise(roles: Sequence[str], stop: threading.Event, renewed: threading.Event) -> int:
    """Run the roles until ``stop``, or until none is left that can run; return the exit code.

    ``renewed`` is set when the roles must read their credentials again."""
    children = [_start(role) for role in roles]
    to_restart: deque[_Child] = deque()
    code = 0
    try:
        while not stop.wait(_CHECK_S):
            if renewed.is_set():
                renewed.clear()
                to_restart = deque(children)
            if to_restart and all(child.kill_at is None for child in children):
                _end(to_restart.popleft())
            for child in children:
                _check(child)
            if all(child.refused for child in children):
                return children[0].refused
    finally:
        code = _stop(children)
    return code


def _start(role: str) -> _Child:
    stderr, write = os.pipe()
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", "streams.main", role, "--alone"],
            env={**os.environ, SUPERVISED: "1", **_log_format()},
            stdin=subprocess.DEVNULL,
            stderr=write,
            # Ctrl-C signals the whole foreground process group. The roles must get their signal from here, once.
            start_new_session=True,
        )
    finally:
        os.close(write)
    log.info("started", role=role, pid=process.pid)
    return _Child(role, process, time.monotonic(), RoleStderr(stderr))


def _log_format() -> dict[str, str]:
    """Return the setting by which a role writes its log for a terminal, which it does not see itself."""
    auto = os.environ.get("WEIR_LOG_FORMAT", "auto") in ("", "auto")
    return {"WEIR_LOG_FORMAT": "console"} if auto and sys.stderr.isatty() else {}


def _end(child: _Child) -> None:
    """Ask a child to end; :func:`_check` starts it again. One that waits for its restart reads the files then."""
    if child.restart_at is not None:
        return
    log.info("restarting a role with the renewed credentials", role=child.role)
    child.process.terminate()
    child.kill_at = time.monotonic() + _stop_timeout_s()


def _stop_timeout_s() -> float:
    return float(os.environ.get("WEIR_STOP_TIMEOUT") or 10) + _GRACE_S


def _check(child: _Child) -> None:
    """Restart a child that has ended, when it is time."""
    now = time.monotonic()
    if child.restart_at is not None:
        if now >= child.restart_at:
            child.begin_again()
        return
    code = child.process.poll()
    if child.kill_at is not None:
        if code is not None:
            child.begin_again()
        elif now >= child.kill_at:
            log.error("a role does not stop; killing it", role=child.role)
            child.process.kill()
            child.kill_at = now + _GRACE_S
        return
    if code is None:
        return
    if code in _FINAL:
        child.refused, child.restart_at = code, now + _MAX_BACKOFF_S
        log.error("a role cannot run until what it said above is mended; the others go on", role=child.role,
                  **child.ending(code), tries_again_after_s=_MAX_BACKOFF_S)  # fmt: skip
        return
    backoff_s = _FIRST_BACKOFF_S if now - child.started > _STABLE_S else child.backoff_s
    child.restart_at, child.backoff_s = now + backoff_s, min(backoff_s * 2, _MAX_BACKOFF_S)
    log.error("a role ended; restarting it", role=child.role, **child.ending(code), after_s=backoff_s)


def _stop(children: Sequence[_Child]) -> int:
    running = [child for child in children if child.process.poll() is None]
    for child in running:
        child.process.terminate()
    deadline = time.monotonic() + _stop_timeout_s()
    code = 0
    for child in running:
        try:
            ended = child.process.wait(max(0.0, deadline - time.monotonic()))
            code = code or ended
        except subprocess.TimeoutExpired:
            log.error("a role does not stop; killing it", role=child.role)
            child.process.kill()
            child.process.wait()
            code = code or Exit.UNEXPECTED
    for child in running:
        if child.stderr is not None:
            child.stderr.last_lines()  # its last ones are passed on before the supervisor ends
    return code
