"""Tests of ``make test``'s five processes: each test runs once, in one of them, and it fails if one of them fails."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests import __main__ as tests_main
from tests import work_queue
from tests.lanes import LANES
from tests.test_overdue import has_ended
from tests.waiting import until
from tests.work_queue import Group, WorkQueue

ROOT = Path(__file__).parents[1]
PATIENCE_S = 240
CONFTEST = """
import os, pathlib, pytest

@pytest.fixture(scope="session")
def once():
    made = pathlib.Path(__file__).with_name(f"once-{os.getpid()}")
    made.touch(exist_ok=False)
    yield
    made.rename(made.with_suffix(".ended"))

def pytest_collection_finish(session):
    pathlib.Path(__file__).with_name("collected").touch(exist_ok=False)
"""
MARKS = {
    "computing": "",
    "tcx": "@pytest.mark.kernel\n",
    "clsact": "@pytest.mark.kernel\n@pytest.mark.clsact\n",
    "kafka": "@pytest.mark.kafka\n",
    "cluster": "@pytest.mark.cluster\n",
}


def run(folder: Path, *options: str, **bodies: str) -> subprocess.CompletedProcess[str]:
    """Run a test with each body; a keyword is the lane and, after two underlines, what tells its files apart."""
    with begin(folder, *options, **bodies) as running:
        out, err = running.communicate()
        return subprocess.CompletedProcess(running.args, running.returncode, out, err)


def begin(folder: Path, *options: str, **bodies: str) -> subprocess.Popen[str]:
    """Begin such a run."""
    markers = "".join(f"  {name}: m\n" for name in ("kernel", "clsact", "kafka", "cluster", "e2e"))
    (folder / "pytest.ini").write_text(f"[pytest]\nmarkers =\n{markers}")
    for name, body in bodies.items():
        mark = MARKS[name.partition("__")[0]]
        (folder / f"test_{name}.py").write_text(f"import pytest\n\n{mark}def test_{name}(once):\n    {body}\n")
    (folder / "conftest.py").write_text(CONFTEST)
    command = [sys.executable, "-m", "tests", *options, "-c", str(folder / "pytest.ini"), str(folder)]
    # The plugins that are installed take more than a second of CPU in each process.
    env = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    return subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_failing_test_fails_the_run_and_outputs_are_not_mixed(tmp_path: Path) -> None:
    done = run(tmp_path, **{kind: "assert 0" if kind == "kafka" else "pass" for kind in MARKS})
    assert done.returncode == 1, done.stdout + done.stderr
    assert done.stdout.count("FAILED (exit code 1)") == 2, "when the process ends, and in the summary"
    assert done.stdout.splitlines()[-1] == "4 passed, 1 failed, 0 skipped"
    assert all(f"test_{kind}.py {'F' if kind == 'kafka' else '.'}\n" in done.stdout for kind in MARKS)
    assert done.stdout.count("collected 5 items") == 1


def test_a_report_has_what_its_own_test_has_printed(tmp_path: Path) -> None:
    """All print at the same time, and wait for each other."""
    body = (
        "import os, pathlib, sys, time\n"
        "    for number in range(100): print('OUT NAME', number); os.write(2, b'ERR NAME %d\\n' % number)\n"
        "    pathlib.Path(__file__).with_suffix('.printed').touch()\n"
        "    while len(list(pathlib.Path(__file__).parent.glob('*.printed'))) < 5: time.sleep(0.01)\n"
        "    assert 0"
    )
    done = run(tmp_path, **{kind: body.replace("NAME", kind) for kind in MARKS})
    assert done.stdout.splitlines()[-1] == "0 passed, 5 failed, 0 skipped"
    for kind in MARKS:
        _, _, report = done.stdout.partition(f"_ test_{kind} _")
        captured = report.partition("short test summary")[0]
        for way in ("OUT", "ERR"):
            printed = [line for line in captured.splitlines() if line.startswith(way)]
            assert printed == [f"{way} {kind} {number}" for number in range(100)]


def test_a_test_that_no_signal_ends_is_ended_with_its_process(tmp_path: Path) -> None:
    hang = (
        "import signal, threading\n"
        "    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})\n"
        "    threading.Event().wait()"
    )
    (tmp_path / "overdue_soon.py").write_text(
        "from tests.overdue import Overdue\ndef pytest_configure(config):\n"
        "    config.pluginmanager.register(Overdue(config, grace_s=1), 'kubeweir-overdue')\n"
    )
    plugins = ("-p", "pytest_timeout", "-p", "overdue_soon", "-o", f"pythonpath={tmp_path}", "--timeout=1")
    done = run(tmp_path, *plugins, computing="pass", kafka=hang)
    assert done.returncode == 1, done.stdout + done.stderr
    # The process that shows its output at once may have taken the test.
    assert "overdue: test_kafka.py::test_kafka has not ended" in done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "1 passed, 1 failed, 0 skipped"


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_run_that_is_ended_ends_its_processes(how: signal.Signals, tmp_path: Path) -> None:
    """By SIGTERM to what ``make`` has started, or by SIGKILL of the process that has collected the tests."""
    body = (
        "import os, pathlib, threading\n"
        "    pathlib.Path(__file__).with_name(f'runs-{os.getpid()}').touch()\n"
        "    threading.Event().wait()"
    )
    with begin(tmp_path, **dict.fromkeys(MARKS, body)) as running:
        until(lambda: len(list(tmp_path.glob("runs-*"))) == len(LANES))
        pids = [file.name.partition("-")[2] for file in tmp_path.glob("runs-*")]
        collecting = Path(f"/proc/{pids[0]}/stat").read_text().rpartition(")")[2].split()[1]
        os.kill(running.pid if how == signal.SIGTERM else int(collecting), how)
        out, err = running.communicate(timeout=PATIENCE_S)
        assert running.returncode != 0
        assert "INTERNALERROR" not in out + err
    until(lambda: all(has_ended(pid) for pid in pids))


def test_a_thread_that_begins_when_a_module_is_imported_fails_the_run(tmp_path: Path) -> None:
    thread = "threading.Thread(target=threading.Event().wait, name='early', daemon=True)"
    (tmp_path / "test_early.py").write_text(f"import threading\n{thread}.start()\ndef test(): pass\n")
    done = run(tmp_path, computing="pass")
    assert done.returncode == 4, done.stdout + done.stderr
    assert "go on in no lane: early" in done.stdout + done.stderr


def test_a_kind_without_tests_is_not_a_failure(tmp_path: Path) -> None:
    done = run(tmp_path, computing="pass")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "1 passed, 0 failed, 0 skipped"


@pytest.mark.parametrize(("code", "shown"), [(9, 9), (0, 3)])
def test_a_process_that_ends_within_a_test_fails_the_run(code: int, shown: int, tmp_path: Path) -> None:
    """Also with the exit code of success: the test has not passed, and those after it have not run."""
    done = run(tmp_path, computing="pass", kafka=f"import os; os._exit({code})")
    assert done.returncode == shown, done.stdout + done.stderr
    assert f"FAILED (exit code {shown})" in done.stdout


def test_what_lint_finds_is_shown_and_fails_the_run(tmp_path: Path) -> None:
    make = tmp_path / "make"
    make.write_text('#!/bin/sh\necho "$@ found something"\nexit 2\n')
    make.chmod(0o755)
    done = run(tmp_path, "--lint", computing="pass")
    assert done.returncode == 2, done.stdout + done.stderr
    assert "test: lint FAILED (exit code 2)\n--no-print-directory --old-file=setup lint found something" in done.stdout
    assert done.stdout.splitlines()[-1] == "1 passed, 0 failed, 0 skipped"


def test_lint_beside_the_tests_does_not_run_the_setup_again() -> None:
    command = ["make", "--dry-run", *tests_main.LINT[1:]]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "ruff check" in done.stdout
    assert "deploy/local/setup" not in done.stdout


def test_no_process_is_idle_while_another_has_work_left(tmp_path: Path) -> None:
    # The first waits for the second, which is of the same kind: another process must take it.
    await_it = (
        "import pathlib, time\n    while not pathlib.Path(__file__).with_name('ready').exists(): time.sleep(0.01)"
    )
    come = "import pathlib; pathlib.Path(__file__).with_name('ready').touch()"
    done = run(tmp_path, kafka__1=await_it, kafka__2=come, **{f"tcx__{number}": "pass" for number in range(7)})
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "9 passed, 0 failed, 0 skipped"
    # What lives as long as the session is made once in a process, and ended.
    assert 1 <= len(list(tmp_path.glob("once-*.ended"))) == len(list(tmp_path.glob("once-*"))) <= len(LANES)


def test_the_projects_settings_are_used() -> None:
    command = [sys.executable, "-m", "tests", "--collect-only", "-o", "testpaths=tests/test_waiting.py"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.count("configfile: pyproject.toml") == 1, done.stdout


def groups(*named: str) -> list[Group]:
    """Return groups of one test each, from "lane/name"."""
    test: Any = None
    parted = [name.partition("/") for name in named]
    return [Group(lane, name, [test], work_queue._SECONDS[lane]) for lane, _, name in parted]


def test_a_process_takes_its_own_kind_first_and_then_of_what_is_most(tmp_path: Path) -> None:
    left = groups("computing/a", "kafka/a", "kafka/b", "tcx/a", "tcx/b", "cluster/a")
    order = [f"{group.lane}/{group.name}" for group in WorkQueue(tmp_path, "tcx", left).taken()]
    assert order == ["tcx/a", "tcx/b", "kafka/a", "kafka/b", "cluster/a", "computing/a"]
    assert list(WorkQueue(tmp_path, "kafka", left).taken()) == []


@pytest.mark.parametrize("seconds", [0.0, -1.0])
def test_each_group_is_taken_whatever_is_known_of_how_long_it_takes(seconds: float, tmp_path: Path) -> None:
    left = groups("kafka/a", "cluster/a", "cluster/b")
    for group in left:
        group.seconds_of_one = seconds
    assert {group.name for group in WorkQueue(tmp_path, "tcx", left).taken()} == {"a", "b"}
    assert len(list(tmp_path.iterdir())) == len([*left, "turn"])


def test_each_group_is_taken_once(tmp_path: Path) -> None:
    left = groups("kafka/a", "kafka/b", "tcx/a")
    one, other = WorkQueue(tmp_path, "kafka", left).taken(), WorkQueue(tmp_path, "kafka", left).taken()
    assert [next(one).name, next(other).name, next(one).lane] == ["a", "b", "tcx"]
    assert list(one) == list(other) == []


def test_the_files_and_folders_that_are_named_exist() -> None:
    assert [name for name in (*work_queue._ALONE, *work_queue._PACKAGES) if not (ROOT / name).exists()] == []


def test_of_files_that_need_both_cores_one_runs_at_a_time_and_first(tmp_path: Path) -> None:
    chaos, bench = "tests/chaos/test_chaos.py", "tests/bench/test_bench.py"
    left = groups(f"kafka/{chaos}", f"tcx/{bench}", "tcx/a")
    one, other = WorkQueue(tmp_path, "kafka", left).taken(), WorkQueue(tmp_path, "tcx", left).taken()
    assert next(one).name == chaos
    assert next(other).name == "a"
    # The end of the first is that it asks for the next.
    assert next(one).name == bench
    assert list(other) == list(one) == []
