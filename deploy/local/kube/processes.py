"""The cluster's processes: they outlive the program that starts them, and carry a mark by which they are found."""

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
"""The variable in the environment of everything that a cluster has started, and of what that has started."""


def logs() -> Path:
    """The folder of all logs."""
    return HOME / "logs"


def start(name: str, command: Sequence[str | Path], env: Mapping[str, str] | None = None) -> int:
    """Start a process in the background, with a log of its own; its id."""
    with (logs() / f"{name}.log").open("ab") as log:
        process = subprocess.Popen(
            [str(word) for word in command], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            env={**os.environ, **(env or {}), MARK: name}, start_new_session=True, cwd="/",
        )  # fmt: skip
    return process.pid


def running() -> dict[int, str]:
    """Every process with the mark, with the name that it was started under."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            for variable in (process / "environ").read_bytes().split(b"\0"):
                name, _, value = variable.decode(errors="replace").partition("=")
                if name == MARK:
                    found[int(process.name)] = value
    return found


def kill_all() -> list[str]:
    """End every process with the mark. What a node's first process has below it, the kernel ends with it."""
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
    """A command that ends; its output. Raises ClusterError with what it said."""
    words = [str(word) for word in command]
    done = subprocess.run(words, input=stdin, capture_output=True, text=True, check=False)
    if check and done.returncode:
        raise ClusterError(f"{' '.join(words)[:200]}: {(done.stderr or done.stdout).strip()[-2000:]}")
    return done


def wait_for(
    what: str, is_there: Callable[[], str | None], say: Callable[[str], None], patience_s: float = 180
) -> None:
    """Until ``is_there`` returns None; now and then a line says what it returns: what is still missing."""
    began = said = time.monotonic()
    while (missing := is_there()) is not None:
        now = time.monotonic()
        if now - began > patience_s:
            raise ClusterError(f"{what}: not after {patience_s:.0f} s: {missing}; the logs are in {logs()}")
        if now - said > 5:
            said = now
            say(f"waiting for {what}: {missing}")
        time.sleep(0.1)


def last_lines(name: str, count: int = 5) -> str:
    """The end of a log."""
    with contextlib.suppress(OSError):
        return "\n".join((logs() / f"{name}.log").read_text(errors="replace").splitlines()[-count:])
    return "no log"
