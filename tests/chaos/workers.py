"""The service `weir-streams` with all roles, which are killed and frozen one by one, and what each says of itself."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from ports import free_ports

from streams.main import ROLES
from tests.attachments import attach
from tests.pages import page_of

PATIENCE_S: Final = 60


class Workers:
    """One supervised service, and perhaps a second enricher. Roles keep their ports when they are restarted."""

    def __init__(self, env: Mapping[str, str], folder: Path) -> None:
        """``env``: the settings of the roles."""
        self._first_port = free_ports(len(ROLES) + 1)
        self._env = {**os.environ, **env, "WEIR_METRICS": f"127.0.0.1:{self._first_port}"}
        self.folder, self.output = folder, folder / "stdout.log"
        self._second: subprocess.Popen[bytes] | None = None
        self._closed = False
        self._service = self._start(*ROLES)

    def _start(self, *roles: str, **more: str) -> subprocess.Popen[bytes]:
        """Start the service in a process group of its own, so that Ctrl-C on the terminal does not end it."""
        if self._closed:
            raise RuntimeError("the run is over")  # a fault is still being mended: nothing would end the service
        path = self.folder / "workers.log"
        with self.output.open("ab") as output, path.open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "streams.main", *roles], env=self._env | more, stdin=subprocess.DEVNULL,
                stdout=output, stderr=log, process_group=0,
            )  # fmt: skip
        attach(f"weir-streams {' '.join(roles)}", process, path)
        return process

    def ready(self, role: str) -> bool:
        """Return whether a role says that it is ready; one that does not answer is not."""
        try:
            return page_of(self._first_port + ROLES.index(role), timeout_s=2)[0] == 200
        except OSError:
            return False

    def send(self, role: str, how: signal.Signals) -> bool:
        """Send a signal to the process of a role; False if it is not running now."""
        pid = role_processes(self._service.pid).get(role)
        if pid is None:
            return False
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, how)
        return True

    def kill_all(self) -> None:
        """Kill the service and all its roles."""
        for pid in (self._service.pid, *role_processes(self._service.pid).values()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._service.wait()

    def start_again(self) -> None:
        """Start the service after :meth:`kill_all`."""
        self._service = self._start(*ROLES)

    def start_second(self) -> None:
        """Start a second enricher, which gets some of the partitions."""
        self._second = self._start("enrich", "--alone", WEIR_METRICS="127.0.0.1:0")

    def end_second(self, how: signal.Signals) -> None:
        """End the second enricher."""
        if self._second is not None:
            self._second.send_signal(how)
            try:
                self._second.wait(PATIENCE_S)
            finally:
                self._second.kill()
                self._second = None

    def close(self) -> None:
        """Kill everything, also what is frozen, and start nothing again."""
        self._closed = True
        self.end_second(signal.SIGKILL)
        self.kill_all()


def role_processes(supervisor: int) -> dict[str, int]:
    """Return the processes that a supervisor has started, by role."""
    found = {}
    with contextlib.suppress(OSError):
        for child in Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split():
            with contextlib.suppress(OSError):
                words = Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")
                if b"--alone" in words:
                    found[words[words.index(b"--alone") - 1].decode()] = int(child)
    return found
