"""A pytest plugin that lets no test, teardown or end of a run hang for ever. ``tests/conftest.py`` registers it.

pytest-timeout ends a test that takes too long, but three kinds of hangs escape it:

1. It stops its timer when a test fails, so as not to interrupt a debugger, and the teardown that follows has no limit.
   Here each teardown gets a timer of its own, as long as the test's.
2. Its signal is handled by Python code of the main thread, which never runs while that thread waits in C, for example
   in a close() of librdkafka. A thread of this plugin waits a little longer. Then it prints the stacks of all threads
   and the failures so far, counts the test as failed, and ends the process and everything that the process has started.
3. It knows tests only. The same thread limits what follows the last test: the fixtures of the whole run, and the
   threads that Python waits for when it exits.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import threading
from pathlib import Path
from time import monotonic  # a test may replace what the module has
from typing import Any, Final

import pytest

THREAD: Final = "overdue"
"""The name of its thread."""
_GRACE_S: Final = 60.0
"""For so long a phase may go on after pytest-timeout should have ended it."""
_END_S: Final = 300.0
"""For so long the end of a run may take."""


class Overdue:
    """Ends the process when it takes longer than it may."""

    def __init__(self, config: pytest.Config, grace_s: float = _GRACE_S, end_s: float = _END_S) -> None:
        self._config, self._grace_s, self._end_s = config, grace_s, end_s
        # Pytest captures a test's output by replacing descriptor 2.
        self._output = os.dup(2)
        self._failed: list[pytest.TestReport] = []
        self._settings: Any = None
        self._debugged = False
        self._what, self._limit_s, self._deadline = "", 0.0, float("inf")
        self.watch()

    def watch(self) -> None:
        """Start the thread, also again in a forked process: it does not have the one that was there before."""
        # A new lock too: nobody would release one that the thread held meanwhile.
        self._changed = threading.Condition()
        threading.Thread(target=self._watch, name=THREAD, daemon=True).start()

    # --- what is watched

    @pytest.hookimpl(wrapper=True)
    def pytest_timeout_set_timer(self, item: pytest.Item, settings: Any) -> Any:
        """Watch what pytest-timeout begins to watch, and remember its settings for the teardown."""
        self._settings = settings
        self._expect(item.nodeid, settings.timeout + self._grace_s)
        return (yield)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> None:
        """Give the teardown a timer of its own: a failure has stopped the test's."""
        if self._settings is not None:
            item.config.hook.pytest_timeout_cancel_timer(item=item)
            item.config.hook.pytest_timeout_set_timer(item=item, settings=self._settings)

    def pytest_runtest_logfinish(self) -> None:
        """Watch nothing between two tests."""
        self._settings = None
        self._expect("", float("inf"))

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self) -> None:
        """Watch what follows, until the process has ended."""
        self._expect("the end of the run", self._end_s)

    def pytest_enter_pdb(self) -> None:
        """Watch nothing while somebody looks."""
        self._debugged = True
        self._expect("", float("inf"))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Remember the failures: pytest prints them at the end, which may not come."""
        if report.failed:
            self._failed.append(report)

    def _expect(self, what: str, limit_s: float) -> None:
        with self._changed:
            limit_s = float("inf") if self._debugged else limit_s
            self._what, self._limit_s, self._deadline = what, limit_s, monotonic() + limit_s
            self._changed.notify()

    # --- what is done when it takes too long

    def _watch(self) -> None:
        with self._changed:
            while (left := self._deadline - monotonic()) > 0:
                self._changed.wait(min(left, threading.TIMEOUT_MAX))
            self._end()

    def _end(self) -> None:
        """Report, kill what the process has started, and end it. No failure on the way lets the process hang."""
        try:
            self._report()
        except Exception as error:
            self._print(f"\noverdue: the report is not complete: {error!r}\n")
        finally:
            _kill_descendants(os.getpid())
            os._exit(pytest.ExitCode.TESTS_FAILED)

    def _report(self) -> None:
        said = f"{self._what} has not ended after {self._limit_s:.0f} s, so the process is ended"
        self._print(f"\n\noverdue: {said}. The stacks of its threads:\n\n")
        faulthandler.dump_traceback(self._output)
        for report in self._failed:
            self._print(f"\noverdue: {report.nodeid} has failed before ({report.when}):\n{report.longreprtext}\n")
            for name, text in report.sections:
                self._print(f"--- {name}\n{text}\n")
        report = pytest.TestReport(self._what, (self._what, None, self._what), {}, "failed", said, "teardown")
        self._config.hook.pytest_runtest_logreport(report=report)

    def _print(self, text: str) -> None:
        os.write(self._output, text.encode())


def _kill_descendants(pid: int) -> None:
    """Kill what a process and its children have started. Some end by themselves when their parent does."""
    for child in _descendants(pid):
        with contextlib.suppress(OSError):
            os.kill(child, signal.SIGKILL)


def _descendants(pid: int) -> list[int]:
    """Return the processes that a process and its children have started, and that still run."""
    found = []
    with contextlib.suppress(OSError):  # the process has ended
        for children in Path(f"/proc/{pid}/task").glob("*/children"):
            with contextlib.suppress(OSError):  # the thread has ended
                for child in map(int, children.read_text().split()):
                    found += [child, *_descendants(child)]
    return found
