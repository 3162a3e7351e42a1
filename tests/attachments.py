"""What the report of a failed test shows of the services that the test ran: their health and the end of their logs.

A run in CI leaves nothing but its output. ``tests/conftest.py`` adds :func:`sections` to the report of each failure.
"""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.pages import page_of

_LINES: Final = 40
_BYTES: Final = 16 << 10


@dataclass(frozen=True)
class _Service:
    name: str
    process: subprocess.Popen[bytes]
    log: Path

    def described(self) -> str:
        """Return whether the process runs, its /readyz, and the last lines of its log."""
        code = self.process.poll()
        state = [f"process {self.process.pid} {'is running' if code is None else f'has ended with exit code {code}'}"]
        if not self.log.exists():
            return f"{state[0]}; {self.log} does not exist"
        lines = self.log.read_bytes().decode(errors="replace").splitlines()
        if code is None:
            state += [f"/readyz of {role}: {_readiness(port)}" for role, port in _ports(lines).items()]
        return "\n".join(state) + f"\nthe end of {self.log}:\n" + "\n".join(lines[-_LINES:])[-_BYTES:]


_SERVICES: Final[list[_Service]] = []


def attach(name: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Show this service in the reports of failures, until its process and the test that runs now have ended."""
    _SERVICES.append(_Service(name, process, log))


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
            fields = json.loads(line)
            found[str(fields.get("role", "the service"))] = int(fields["metrics_port"])
    return found


def _readiness(port: int) -> str:
    try:
        status, text = page_of(port, timeout_s=2)
    except OSError as error:
        return f"no answer: {error}"
    return f"{status} {text.strip()}"
