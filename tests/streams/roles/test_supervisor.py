"""What becomes of the other roles when one is restarted, or cannot run."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from streams.roles import supervisor
from tests.waiting import until

_CHILD = """
import signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
def note(text):
    with open(sys.argv[1], "a") as file:
        file.write(f"{text} {sys.argv[2]}\\n")
note("start")
signal.sigwait({signal.SIGTERM})
note("end")
sys.exit(5)
"""


def test_roles_are_restarted_in_turn_whatever_their_exit_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notes = tmp_path / "notes"
    notes.touch()

    def start(role: str) -> supervisor._Child:
        process = subprocess.Popen([sys.executable, "-c", _CHILD, str(notes), role])
        return supervisor._Child(role, process, time.monotonic())

    def lines() -> list[str]:
        return notes.read_text().splitlines()

    monkeypatch.setattr(supervisor, "_start", start)
    # A failure would wait for longer than the test.
    monkeypatch.setattr(supervisor, "_FIRST_BACKOFF_S", 3600.0)
    stop, renewed = threading.Event(), threading.Event()
    with ThreadPoolExecutor() as pool:
        code = pool.submit(supervisor.supervise, ["a", "b"], stop, renewed)
        try:
            until(lambda: sorted(lines()) == ["start a", "start b"])
            renewed.set()
            until(lambda: sorted(lines()[2:]) == ["end a", "end b", "start a", "start b"])
            assert lines().index("end a") < lines().index("end b")
            assert not code.done()
        finally:
            stop.set()
        assert code.result(60) == 5


def test_a_role_that_cannot_run_ends_no_other_and_all_together_end_the_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes = tmp_path / "notes"
    notes.touch()

    def start(role: str) -> supervisor._Child:
        code = f"import sys; open(sys.argv[1], 'a').write('{role}\\n'); sys.exit(2)"
        process = subprocess.Popen([sys.executable, "-c", _CHILD if role == "runs" else code, str(notes), role])
        return supervisor._Child(role, process, time.monotonic())

    def lines() -> list[str]:
        return notes.read_text().splitlines()

    monkeypatch.setattr(supervisor, "_start", start)
    monkeypatch.setattr(supervisor, "_MAX_BACKOFF_S", 0.5)
    stop = threading.Event()
    with ThreadPoolExecutor() as pool:
        code = pool.submit(supervisor.supervise, ["wrong", "runs"], stop, threading.Event())
        try:
            until(lambda: notes.read_text().count("wrong") >= 3 and "start runs" in lines())
            assert not code.done()
        finally:
            stop.set()
    # Neither is started again before both have ended, however slow the machine is.
    monkeypatch.setattr(supervisor, "_MAX_BACKOFF_S", 3600.0)
    assert supervisor.supervise(["wrong", "worse"], threading.Event(), threading.Event()) == 2
