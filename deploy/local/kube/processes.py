"""Start, find and end the cluster's processes. They outlive the program that starts them, and are found by a mark."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from kube.plan import HOME, ClusterError

MARK = "KUBEWEIR_CLUSTER"
"""The environment variable that marks the cluster's processes; their children inherit it."""


def logs() -> Path:
    """Return the folder of all logs."""
    return HOME / "logs"


def start(name: str, command: Sequence[str | Path], env: Mapping[str, str] | None = None) -> int:
    """Start a process in the background with its own log, and return its id."""
    with (logs() / f"{name}.log").open("ab") as log:
        process = subprocess.Popen(
            [str(word) for word in command], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            env={**os.environ, **(env or {}), MARK: name}, start_new_session=True, cwd="/",
        )  # fmt: skip
    return process.pid


def running() -> dict[int, str]:
    """Return the id of each process with the mark, and the name under which it was started."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            for variable in (process / "environ").read_bytes().split(b"\0"):
                name, _, value = variable.decode(errors="replace").partition("=")
                if name == MARK:
                    found[int(process.name)] = value
    return found


def kill_all() -> list[str]:
    """Kill every process with the mark; return their names. The kernel kills a node's processes with its first one."""
    ended = set()
    deadline = time.monotonic() + 30
    while (left := running()) and time.monotonic() < deadline:
        ended |= set(left.values())
        handles = []
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                handle = os.pidfd_open(pid)
                signal.pidfd_send_signal(handle, signal.SIGKILL)
                handles.append(handle)
        for handle in handles:
            select.select([handle], [], [], max(0.0, deadline - time.monotonic()))
            os.close(handle)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
    return sorted(ended)


def run(*command: str | Path, check: bool = True, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command until it ends and return its result. With ``check``, raises ClusterError if it fails."""
    words = [str(word) for word in command]
    done = subprocess.run(words, input=stdin, capture_output=True, text=True, check=False)
    if check and done.returncode:
        raise ClusterError(f"{' '.join(words)[:200]}: {(done.stderr or done.stdout).strip()[-2000:]}")
    return done


def wait_for(
    what: str, find_missing: Callable[[], str | None], say: Callable[[str], None], timeout_s: float = 180
) -> None:
    """Wait until ``find_missing`` returns None, and say every five seconds what is missing. Raises ClusterError."""
    started = printed = time.monotonic()
    while (missing := find_missing()) is not None:
        now = time.monotonic()
        if now - started > timeout_s:
            raise ClusterError(f"{what}: not ready after {timeout_s:.0f} s: {missing}; the logs are in {logs()}")
        if now - printed > 5:
            printed = now
            say(f"waiting for {what}: {missing}")
        time.sleep(0.1)


def last_lines(name: str, count: int = 5) -> str:
    """Return the end of a process's log, or "no log"."""
    with contextlib.suppress(OSError):
        return "\n".join((logs() / f"{name}.log").read_text(errors="replace").splitlines()[-count:])
    return "no log"
