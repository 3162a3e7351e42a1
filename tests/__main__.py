"""All tests in two pytest processes side by side: those that compute, and those that mostly wait for Kafka, an API
server or traffic. ``python -m tests [pytest's arguments]``; both processes get the arguments.

The output of the first process is shown as it comes, that of the second when both have ended. They share no names:
every test makes its namespaces, pins, ports and folders under random names, and the demo and the whole cluster are in
one half. At the end stand the time and the counts of each ring, and one line for each reason why tests were skipped.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, Final

import pytest

from tests.report import RingReport, lines, merged

WAITING: Final = "kafka or cluster or e2e"
_NOTHING: Final = pytest.ExitCode.NO_TESTS_COLLECTED


def run(
    marks: str, name: str, report: Path, arguments: Sequence[str], output: BinaryIO | None
) -> subprocess.Popen[bytes]:
    """Start the tests that have these marks. ``name`` keeps pytest's caches of the two processes apart."""
    options = ["-m", marks, "-o", f"cache_dir=.pytest_cache/{name}", "--report", str(report)]
    if output is not None and sys.stdout.isatty():
        options.append("--color=yes")
    return subprocess.Popen([sys.executable, "-m", "pytest", *options, *arguments], stdout=output, stderr=output)


def main(arguments: Sequence[str]) -> int:
    """Run both halves and return the exit code: that of a half that failed, else 0."""
    started = time.monotonic()
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    with tempfile.TemporaryFile() as output, tempfile.TemporaryDirectory() as folder:
        reports = [Path(folder) / "waiting", Path(folder) / "computing"]
        halves = [
            run(WAITING, "waiting", reports[0], arguments, output),
            run(f"not ({WAITING})", "computing", reports[1], arguments, None),
        ]
        # Ctrl-C reaches both processes by itself, and each reports what it has done until then.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            computing = halves[1].wait()
            if halves[0].poll() is None:
                print("\ntest: the half that waits for Kafka, API servers and traffic is still running", flush=True)
            waiting = halves[0].wait()
        finally:
            for half in halves:
                half.terminate()
        output.seek(0)
        sys.stdout.buffer.write(output.read())
        rings = merged(reports)
    _summarize(rings, computing, waiting, (time.monotonic() - started) / 60)
    failed = [code for code in (computing, waiting) if code not in (0, _NOTHING)]
    return failed[0] if failed else min(computing, waiting)


def _summarize(rings: dict[str, RingReport], computing: int, waiting: int, minutes: float) -> None:
    print(f"\ntest: the computing half {_outcome(computing)}, the waiting half {_outcome(waiting)}, {minutes:.1f} min")
    print("\n".join(lines(rings)))
    passed, failed, skipped = (
        sum(ring.passed for ring in rings.values()),
        sum(ring.failed for ring in rings.values()),
        sum(sum(ring.skipped.values()) for ring in rings.values()),
    )
    print(f"{passed} passed, {failed} failed, {skipped} skipped", flush=True)


def _outcome(code: int) -> str:
    return "passed" if code == 0 else "ran no test" if code == _NOTHING else f"FAILED (exit code {code})"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
