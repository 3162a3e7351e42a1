"""What the log says of a role that ended unexpectedly."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import pytest
import structlog

from streams.roles import supervisor
from streams.roles.role_stderr import RoleStderr
from tests.waiting import until

ASSERTION: Final = "python: queue.h:1086: del_source: Assertion `count > 0' failed."
ABORTS: Final = f"""
import os, sys
from enrich.runtime.console import run_console

def work():
    print('{{"event": "a line of the log"}}', file=sys.stderr)
    print({ASSERTION!r}, file=sys.stderr, flush=True)
    os.abort()

run_console("role", work)
"""


def start(code: str) -> tuple[subprocess.Popen[bytes], RoleStderr]:
    read, write = os.pipe()
    process = subprocess.Popen([sys.executable, "-c", code], stderr=write)
    os.close(write)
    return process, RoleStderr(read)


def test_the_reason_of_an_abort_is_found_among_stacks_and_everything_is_passed_on(
    capfd: pytest.CaptureFixture[str],
) -> None:
    process, stderr = start(ABORTS)
    process.wait()
    assert stderr.last_lines() == [ASSERTION, "Fatal Python error: Aborted"]
    passed_on = capfd.readouterr().err
    assert '{"event": "a line of the log"}\n' in passed_on
    assert "in work\n" in passed_on


def test_only_so_much_is_remembered(capfd: pytest.CaptureFixture[str]) -> None:
    size = 1 << 20
    process, stderr = start(
        f"import sys; [print(n, file=sys.stderr) for n in range(100)]; sys.stderr.write('x' * {size})"
    )
    process.wait()
    lines = stderr.last_lines()
    assert len(lines) == 10
    assert lines[-1] == "x" * 500
    assert capfd.readouterr().err.count("x") == size


def test_a_role_outlives_a_standard_error_that_takes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streams.roles.role_stderr._STDERR", -1)
    process, stderr = start("import sys; [print('x' * 1000, file=sys.stderr) for _ in range(1000)]")
    assert process.wait(60) == 0
    assert len(stderr.last_lines()) == 10


def test_the_log_names_the_signal_and_what_the_role_wrote_last(monkeypatch: pytest.MonkeyPatch) -> None:
    def start_role(role: str) -> supervisor._Child:
        process, stderr = start(ABORTS)
        return supervisor._Child(role, process, time.monotonic(), stderr)

    monkeypatch.setattr(supervisor, "_start", start_role)
    monkeypatch.setattr(supervisor, "_FIRST_BACKOFF_S", 3600.0)
    stop = threading.Event()
    with structlog.testing.capture_logs() as lines, ThreadPoolExecutor() as pool:
        code = pool.submit(supervisor.supervise, ["routes"], stop, threading.Event())
        until(lambda: bool(lines))
        stop.set()
        code.result(60)
    (line,) = lines
    assert (line["event"], line["role"]) == ("a role ended; restarting it", "routes")
    assert (line["exit_code"], line["signal"]) == (-6, "SIGABRT")
    assert line["last_lines"] == [ASSERTION, "Fatal Python error: Aborted"]


def test_a_service_outlives_the_reader_of_its_log() -> None:
    code = "\n".join(
        [
            "import structlog",
            "from enrich.runtime.process import configure_logs",
            "configure_logs('info', 'json')",
            "for _ in range(100): structlog.get_logger().error('a line', value='x' * 1000)",
            "print('at work')",
        ]
    )
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=write, check=False)
    os.close(write)
    assert done.stdout == b"at work\n"


def test_a_service_works_without_a_standard_error() -> None:
    code = "\n".join(
        [
            "import os, structlog",
            "from enrich.runtime.console import run_console",
            "from enrich.runtime.process import configure_logs",
            "def work():",
            "    configure_logs('info', 'auto')",
            "    structlog.get_logger().error('a line')",
            "    print('at work,', os.readlink('/proc/self/fd/2'))",
            "run_console('role', work)",
        ]
    )
    run = ["sh", "-c", 'exec "$0" -c "$1" 2>&-', sys.executable, code]
    done = subprocess.run(run, stdout=subprocess.PIPE, check=False)
    assert (done.returncode, done.stdout) == (0, b"at work, /dev/null\n")
