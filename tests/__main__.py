"""All tests in two pytest processes side by side: those that compute, and those that mostly wait for Kafka, an API
server or traffic. `python -m tests [pytest's arguments]`, which both get.

What the first prints is seen as it comes, what the second does when both have ended. They share no names: every test
makes its namespaces, pins, ports and folders by random names, and the demo and the whole cluster are in one half.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import BinaryIO, Final

import pytest

WAITING: Final = "kafka or cluster or e2e"
_NOTHING: Final = pytest.ExitCode.NO_TESTS_COLLECTED


def run(chosen: str, cache: str, arguments: Sequence[str], output: BinaryIO | None) -> subprocess.Popen[bytes]:
    """Start the tests with these marks. ``cache``: of what failed last, each its own."""
    options = ["-m", chosen, "-o", f"cache_dir=.pytest_cache/{cache}"]
    if output is not None and sys.stdout.isatty():
        options.append("--color=yes")
    return subprocess.Popen([sys.executable, "-m", "pytest", *options, *arguments], stdout=output, stderr=output)


def main(arguments: Sequence[str]) -> int:
    """The exit code: of one that failed, else 0."""
    began = time.monotonic()
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    with tempfile.TemporaryFile() as output:
        halves = [run(WAITING, "waiting", arguments, output), run(f"not ({WAITING})", "computing", arguments, None)]
        # Ctrl-C reaches them by itself, and they say what was done until then.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            computing = halves[1].wait()
            if halves[0].poll() is None:
                print("\ntest: the half that waits for Kafka, API servers and traffic goes on", flush=True)
            waiting = halves[0].wait()
        finally:
            for half in halves:
                half.terminate()
        output.seek(0)
        sys.stdout.buffer.write(output.read())
    minutes = (time.monotonic() - began) / 60
    print(f"\ntest: those that compute {_words(computing)}, those that wait {_words(waiting)}, {minutes:.1f} min")
    failed = [code for code in (computing, waiting) if code not in (0, _NOTHING)]
    return failed[0] if failed else min(computing, waiting)


def _words(code: int) -> str:
    return "passed" if code == 0 else "are none" if code == _NOTHING else f"FAILED ({code})"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
