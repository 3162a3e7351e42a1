"""What the report of a failed test shows of the services that the test ran: their health and the end of their logs.

A run in CI leaves nothing but its output. ``tests/conftest.py`` adds :func:`sections` to the report of each failure.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.pages import page_of

_LINES: Final = 40
_BYTES: Final = 16 << 10


@dataclass
class _Service:
    name: str
    process: subprocess.Popen[bytes]
    log: Path
    _remembered: str = ""
    """What it said of its health when the test failed."""

    def remember(self) -> None:
        """Ask for the health while the process still runs."""
        if self.process.poll() is None:
            self._remembered = self._health()

    def described(self) -> str:
        """Return whether the process runs, its /readyz, and the last lines of its log."""
        code = self.process.poll()
        state = "is running" if code is None else f"has ended with exit code {code}"
        health = self._health() if code is None else self._remembered
        end = "\n".join(self._lines()[-_LINES:])[-_BYTES:]
        return f"process {self.process.pid} {state}\n{health}the end of {self.log}:\n{end}"

    def _health(self) -> str:
        return "".join(f"/readyz of {role}: {_readiness(port)}\n" for role, port in _ports(self._lines()).items())

    def _lines(self) -> list[str]:
        return self.log.read_bytes().decode(errors="replace").splitlines() if self.log.exists() else []


_SERVICES: Final[list[_Service]] = []


def attach(name: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Show this service in the reports of failures, until its process and the test that runs now have ended.

    A service that is started again and writes on in the same log is shown once.
    """
    _SERVICES[:] = [one for one in _SERVICES if one.log != log or one.process.poll() is None]
    _SERVICES.append(_Service(name, process, log))


def remember_if_failing() -> None:
    """Remember the health of all services if an exception ends the caller. Call this before services are killed that a
    test itself has started: its report is made later."""
    if sys.exc_info()[0] is not None:
        for one in _SERVICES:
            one.remember()


def forget_ended() -> None:
    """Forget the services that have ended: the next test has nothing to do with them."""
    _SERVICES[:] = [one for one in _SERVICES if one.process.poll() is None]


def sections() -> list[tuple[str, str]]:
    """Return what a report has of each service: a title and a text."""
    return [(one.name, one.described()) for one in _SERVICES]


def _ports(lines: list[str]) -> dict[str, int]:
    """Return the health ports that a log names, by role; a role that has begun again has another one."""
    found = {}
    for line in lines:
        if line.startswith("{") and '"metrics_port"' in line:
            with contextlib.suppress(ValueError, KeyError):  # a process that was killed may have written half a line
                fields = json.loads(line)
                found[str(fields.get("role", "the service"))] = int(fields["metrics_port"])
    return found


def _readiness(port: int) -> str:
    try:
        status, text = page_of(port, timeout_s=2)
    except OSError as error:
        return f"no answer: {error}"
    return f"{status} {text.strip()}"
