"""The demo's processes: Kafka, weir-probe, weir-streams and weir observe, each as in production, all gone at the end.

The kernel kills each child when the demo dies (PR_SET_PDEATHSIG). Each child and its own children carry a mark in their
environment, so that the next run finds what a killed demo left behind.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
HOME = Path("/run/kubeweir-demo")
PINS = Path("/sys/fs/bpf/kubeweir-demo")
PREFIX = "weir-demo"
_MARK = "KUBEWEIR_DEMO"


class DemoError(RuntimeError):
    """The demo cannot continue; the message says why."""


class Stack:
    """The children, by name."""

    def __init__(self) -> None:
        self._children: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, command: list[str], env: Mapping[str, str], *, show: bool = False) -> None:
        """Start a child with its output in a log file, or with ``show`` on the user's terminal."""
        log = None if show else (HOME / f"{name}.log").open("ab")
        # Ctrl-C reaches the whole foreground group of the terminal. Children have sessions of their own, so that the
        # demo can stop them in order.
        try:
            self._children[name] = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", "--", *command], env={**os.environ, **env, _MARK: "1"}, cwd=ROOT,
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        finally:
            if log is not None:
                log.close()

    def is_alive(self, name: str) -> bool:
        """Return whether a child still runs."""
        return self._children[name].poll() is None

    def pid(self, name: str) -> int:
        """Return a child's process id."""
        return self._children[name].pid

    def wait_for(self, name: str, url: str, timeout_s: float) -> None:
        """Wait until a child's /readyz answers 200. Raises DemoError with its last answer."""
        deadline, answer = time.monotonic() + timeout_s, "no answer"
        while time.monotonic() < deadline:
            if not self.is_alive(name):
                raise DemoError(f"{name} ended: {self.last_lines(name)}")
            try:
                with urllib.request.urlopen(url, timeout=2):  # noqa: S310 - loopback
                    return
            except urllib.error.HTTPError as error:
                with error:
                    answer = error.read().decode().strip()
            except OSError as error:
                answer = str(error)
            time.sleep(0.05)
        raise DemoError(f"{name} is not ready after {timeout_s:.0f} s: {answer}; {self.last_lines(name)}")

    def last_lines(self, name: str, count: int = 5) -> str:
        """Return the last lines of a child's log."""
        file = HOME / f"{name}.log"
        return "\n".join(file.read_text(errors="replace").splitlines()[-count:]) if file.exists() else "no log"

    def stop(self, name: str, timeout_s: float = 10.0) -> int | None:
        """Send SIGTERM, after a timeout SIGKILL, and return the exit code."""
        child = self._children.pop(name, None)
        if child is None:
            return None
        child.terminate()
        try:
            return child.wait(timeout_s)
        except subprocess.TimeoutExpired:
            child.kill()
            return child.wait()

    def close(self) -> None:
        """Stop all children, the last one first. Kafka is killed at once, because none of its data is kept."""
        for name in reversed(list(self._children)):
            self.stop(name, 0.0 if name == "kafka" else 10.0)


def wait_for_port(stack: Stack, name: str, port: int, timeout_s: float) -> None:
    """Wait until a loopback port accepts connections. Raises DemoError."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if not stack.is_alive(name):
            raise DemoError(f"{name} ended: {stack.last_lines(name)}")
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), 0.2).close()
            return
        time.sleep(0.1)
    raise DemoError(f"{name} does not answer on port {port}: {stack.last_lines(name)}")


def sweep() -> list[str]:
    """Remove everything that an earlier demo left behind, and return a description of each thing."""
    found = []
    for pid in _marked():
        with contextlib.suppress(ProcessLookupError):
            process = os.pidfd_open(pid)
            signal.pidfd_send_signal(process, signal.SIGKILL)
            select.select([process], [], [], 10)
            os.close(process)
            found.append(f"process {pid}")
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=False).stdout
    for line in listed.splitlines():
        space = line.split()[0]
        if space.startswith(f"{PREFIX}-"):
            subprocess.run(["ip", "netns", "del", space], check=False)
            found.append(f"namespace {space}")
    for folder in (PINS, HOME):
        if folder.exists():
            shutil.rmtree(folder, ignore_errors=True)
            found.append(f"folder {folder}")
    return found


def _marked() -> list[int]:
    """Return the process ids of everything that a demo has started."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if f"{_MARK}=1".encode() in (process / "environ").read_bytes().split(b"\0"):
                found.append(int(process.name))
    return found


def script(name: str) -> str:
    """Return the path of a console script in this virtual environment."""
    return str(Path(sys.prefix) / "bin" / name)
