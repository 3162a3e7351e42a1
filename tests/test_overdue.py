"""Tests of the end of what hangs after a failure, with real pytest runs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.report import merged
from tests.waiting import until

ROOT = Path(__file__).parents[1]
CONFTEST = """
import ctypes, pytest
from tests.overdue import Overdue

def pytest_configure(config):
    config.overdue = Overdue(config, grace_s=GRACE, end_s=150)
    config.pluginmanager.register(config.overdue)

def hang_in_c():
    # No signal wakes a thread that waits for a mutex which it holds itself.
    mutex, libc = ctypes.create_string_buffer(64), ctypes.CDLL(None)
    libc.pthread_mutex_lock(mutex)
    libc.pthread_mutex_lock(mutex)
"""
FAILS = """
import subprocess, threading
from pathlib import Path
import pytest
from conftest import hang_in_c

@pytest.fixture
def hanging():
    child = subprocess.Popen(["sleep", "600"], process_group=0)
    Path(__file__).with_name("child").write_text(str(child.pid))
    yield
    HANG

def test_fails(hanging):
    assert "this" == "that"

def test_passes():
    pass
"""
ENDS = """
import pytest, threading
from conftest import hang_in_c

@pytest.fixture(scope="session")
def kept(request):
    # Only of the process that hangs: on a slow machine the others take a while.
    request.config.overdue._end_s = END
    yield
    HANG

@pytest.mark.kafka
def test_passes(kept):
    pass
"""
VANISHES = """
import subprocess, sys, time
from tests import overdue

class Config:
    class hook:
        def pytest_runtest_logreport(report):
            raise OSError("no space left on device")

child = subprocess.Popen(["sleep", "600"], process_group=0)
print(child.pid, flush=True)
found = overdue._descendants
# No process has this number, like one that has ended since it was found.
overdue._descendants = lambda pid: [1 << 30, *found(pid)]
overdue.Overdue(Config, end_s=0).pytest_sessionfinish()
time.sleep(600)
"""


def run(
    folder: Path, tests: str, hang: str, *arguments: str, grace_s: int = 50, end_s: int = 150
) -> subprocess.CompletedProcess[str]:
    """Run these tests, which may take ten seconds each, by pytest or by arguments for Python."""
    (folder / "pytest.ini").write_text("[pytest]\ntimeout = 10\nmarkers =\n  kafka: m\n")
    (folder / "conftest.py").write_text(CONFTEST.replace("GRACE", str(grace_s)))
    (folder / "test_made.py").write_text(tests.replace("HANG", hang).replace("END", str(end_s)))
    report = f"--report={folder / 'report'}"
    words = arguments or ("-m", "pytest", "-p", "no:cacheprovider", "-p", "tests.report", report)
    command = [sys.executable, *words, "-c", str(folder / "pytest.ini"), str(folder)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=400)


def has_ended(pid: str) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] == "Z"


def test_a_teardown_that_hangs_after_a_failure_fails_and_the_run_goes_on(tmp_path: Path) -> None:
    done = run(tmp_path, FAILS, "threading.Event().wait()")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "1 failed, 1 passed, 1 error" in done.stdout
    assert "Timeout (>10.0s)" in done.stdout
    assert "'this' == 'that'" in done.stdout


def test_a_teardown_that_no_signal_reaches_ends_the_process_with_all_that_is_known(tmp_path: Path) -> None:
    done = run(tmp_path, FAILS, "hang_in_c()", grace_s=5)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "test_made.py::test_fails has not ended after 15 s" in done.stderr
    assert "in hang_in_c" in done.stderr
    assert "'this' == 'that'" in done.stderr
    counts = merged([tmp_path / "report"])["unit"]
    assert (counts.passed, counts.failed) == (0, 2)
    until(lambda: has_ended((tmp_path / "child").read_text()))


def test_a_report_that_fails_and_a_child_that_has_ended_do_not_keep_the_process_from_its_end() -> None:
    done = subprocess.run(
        [sys.executable, "-c", VANISHES], cwd=ROOT, capture_output=True, text=True, check=False, timeout=240
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "the report is not complete: OSError('no space left on device')" in done.stderr
    until(lambda: has_ended(done.stdout.strip()))


def test_a_run_that_does_not_end_fails(tmp_path: Path) -> None:
    done = run(tmp_path, ENDS, "threading.Event().wait()", "-m", "tests", end_s=3)
    assert done.returncode == 1, done.stdout + done.stderr
    text = done.stdout + done.stderr  # the output of the first process is shown as it is written
    assert "the end of the run has not ended after 3 s" in text
    assert "in kept" in text
    assert done.stdout.splitlines()[-1] == "1 passed, 1 failed, 0 skipped"


def test_a_thread_that_does_not_end_fails_the_run(tmp_path: Path) -> None:
    done = run(tmp_path, ENDS, "threading.Thread(target=threading.Event().wait).start()", end_s=3)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "the end of the run has not ended after 3 s" in done.stderr
    # On a slow machine, pytest has not printed its summary by then.
    assert merged([tmp_path / "report"])["kafka"].passed == 1
