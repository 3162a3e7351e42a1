"""Forks the processes of ``make test`` out of the one that has collected the tests.

To collect takes ten seconds of CPU and 400 MB of memory, and finds the same in each process. So one process collects,
and then forks a process for each lane, which goes on from there: it runs its tests, and ends as any run of pytest does.
They share the memory until they change it. The collecting process runs no test. It waits for the others, says how each
ended, and writes their exit codes down.

A forked process has only the thread that forked it, and shares open files with the others. So it begins again what does
not stand that: pytest's capture of output, the thread that ends what hangs, and where its output and its report go.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any, Final

import pytest

from tests.overdue import THREAD as OVERDUE
from tests.overdue import Overdue
from tests.report import Report

LANES: Final = ("computing", "tcx", "clsact", "kafka", "cluster")
"""The lanes, and the processes that begin with them. The output of the first is shown as it comes."""
NO_TESTS: Final = pytest.ExitCode.NO_TESTS_COLLECTED
_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)
_PR_SET_PDEATHSIG: Final = 1


def output_of(lane: str, folder: Path) -> Path:
    """Return the file of what the process of a lane prints, if it is not the first."""
    return folder / f"{lane}.output"


def report_of(lane: str, folder: Path) -> Path:
    """Return the file of a lane's report (tests/report.py)."""
    return folder / f"{lane}.report"


def durations_of(lane: str, folder: Path) -> Path:
    """Return the file of how long the groups took that a lane's process has run (tests/durations.py)."""
    return folder / f"{lane}.durations"


def say_done(lane: str, folder: Path) -> None:
    """Note that a lane's process has run all that it has taken, and that nothing is left to take."""
    (folder / f"{lane}.done").touch()


def code_of(lane: str, folder: Path, otherwise: int) -> int:
    """Return the exit code of the process of a lane; ``otherwise`` if the collecting process has not seen its end."""
    file = folder / f"{lane}.code"
    return int(file.read_text()) if file.exists() else otherwise


def outcome(code: int) -> str:
    """Return what an exit code means."""
    return "passed" if code == 0 else "ran no test" if code == NO_TESTS else f"FAILED (exit code {code})"


def fork(config: pytest.Config, folder: Path) -> str:
    """Fork a process for each lane, and return in each of them its lane. In this one it never returns.

    Raises UsageError if a test module has started a thread when it was imported.
    """
    early = sorted({one.name for one in threading.enumerate()} - {threading.main_thread().name, OVERDUE})
    if early:
        raise pytest.UsageError(f"threads that began while tests were collected go on in no lane: {', '.join(early)}")
    # What is there stays as long as the processes. The collector would write into each object that it looks at, and
    # make a copy of its page in each process.
    gc.freeze()
    # What waits in a buffer would be written by each process.
    sys.stdout.flush()
    sys.stderr.flush()
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    running: dict[int, str] = {}
    collecting = os.getpid()
    for lane in LANES:
        pid = os.fork()
        if pid == 0:
            # When this process is killed, nobody waits for the others: the kernel ends them.
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
            if os.getppid() != collecting:  # it was killed before
                os._exit(1)
            _begin_again(config, lane, folder)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
            return lane
        running[pid] = lane
    _wait(running, folder)
    # Without what pytest does at the end of a run: this process has run no test.
    os._exit(0)


def _begin_again(config: pytest.Config, lane: str, folder: Path) -> None:
    """Have nothing in common with the other processes that one of them may change."""
    capture: Any = config.pluginmanager.get_plugin("capturemanager")
    # Its files: what one process has captured, each would take for its own.
    capture.stop_global_capturing()
    if lane != LANES[0]:
        _print_into(output_of(lane, folder))
    capture.start_global_capturing()
    capture.suspend_global_capture()
    for plugin in config.pluginmanager.get_plugins():
        if isinstance(plugin, Report):
            plugin.path = report_of(lane, folder)
        elif isinstance(plugin, Overdue):
            plugin.watch()


def _print_into(path: Path) -> None:
    """Have everything that the process prints go into a file. Plugins have descriptors of their own for its output."""
    shown = {_file_of(1), _file_of(2)}
    with path.open("wb") as file:
        for number in [int(one.name) for one in Path("/proc/self/fd").iterdir()]:
            if number not in (0, file.fileno()) and _file_of(number) in shown:
                os.dup2(file.fileno(), number, os.get_inheritable(number))


def _file_of(number: int) -> tuple[int, int] | None:
    """Return which file a descriptor leads to, None if it is closed."""
    try:
        found = os.fstat(number)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _wait(running: dict[int, str], folder: Path) -> None:
    """Wait until each process has ended. Ctrl-C reaches them without this one, and each reports what it has done."""

    def end_all(number: int, _frame: object) -> None:
        for pid in running:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, end_all)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    began = time.monotonic()
    while running:
        pid, status, used = os.wait4(-1, 0)
        if (lane := running.pop(pid, None)) is not None:
            code = os.waitstatus_to_exitcode(status)
            if code == 0 and not (folder / f"{lane}.done").exists():
                # A test has ended the process (os._exit), and what it had taken has not run.
                code = int(pytest.ExitCode.INTERNAL_ERROR)
            (folder / f"{lane}.code").write_text(str(code))
            minutes, cpu = (time.monotonic() - began) / 60, (used.ru_utime + used.ru_stime) / 60
            took = f"after {minutes:.1f} min with {cpu:.1f} of CPU"
            print(f"\ntest: {lane} {outcome(code)} {took}{'; waiting for the others' if running else ''}", flush=True)
