"""All tests in five pytest processes side by side. ``python -m tests [pytest's arguments]``; each process gets them.

1. ``computing``: the tests that need no kernel program, no Kafka and no API server.
2. ``tcx`` and ``clsact``: the kernel tests, which mostly wait for the kernel, by the way of attaching. Those that have
   no such parameter are in ``tcx``.
3. ``kafka``: the tests that mostly wait for Kafka, traffic and the demo.
4. ``cluster``: the tests that mostly wait for an API server, and the install on a real cluster.

The output of the first is shown as it comes, that of the others when all have ended. They share no names: every test
makes its namespaces, pins, ports and folders under random names; the demo and the real cluster, which have fixed names,
are in one process each. At the end stand the time and the counts of each ring, and one line for each reason for skips.
"""

from __future__ import annotations

import contextlib
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

PARTS: Final = {
    "computing": "not (kernel or kafka or cluster or e2e)",
    "tcx": "kernel and not (clsact or kafka or cluster or e2e)",
    "clsact": "kernel and clsact and not (kafka or cluster or e2e)",
    "kafka": "(kafka or e2e) and not cluster",
    "cluster": "cluster",
}
"""Name of each process, and the marks of its tests. Each test is in exactly one."""
_NOTHING: Final = pytest.ExitCode.NO_TESTS_COLLECTED


def run(part: str, report: Path, arguments: Sequence[str], output: BinaryIO | None) -> subprocess.Popen[bytes]:
    """Start one part. Each has a cache folder of its own, because pytest's cache remembers what failed last."""
    options = [
        "-m",
        PARTS[part],
        "-o",
        f"cache_dir=.pytest_cache/{part}",
        "-p",
        "tests.report",
        "--report",
        str(report),
    ]
    if output is not None and sys.stdout.isatty():
        options.append("--color=yes")
    return subprocess.Popen([sys.executable, "-m", "pytest", *options, *arguments], stdout=output, stderr=output)


def main(arguments: Sequence[str]) -> int:
    """Run all parts and return the exit code: that of a part that failed, else 0."""
    started = time.monotonic()
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        outputs = {part: stack.enter_context(tempfile.TemporaryFile()) for part in list(PARTS)[1:]}
        running = {part: run(part, folder / part, arguments, outputs.get(part)) for part in PARTS}
        # Ctrl-C reaches the processes by itself, and each reports what it has done until then.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            codes = {part: _wait(part, process, last=part == list(PARTS)[-1]) for part, process in running.items()}
        finally:
            for process in running.values():
                process.terminate()
        for output in outputs.values():
            output.seek(0)
            sys.stdout.buffer.write(output.read())
        rings = merged(folder / part for part in PARTS)
    _summarize(rings, codes, (time.monotonic() - started) / 60)
    failed = [code for code in codes.values() if code not in (0, _NOTHING)]
    return failed[0] if failed else min(codes.values())


def _wait(part: str, process: subprocess.Popen[bytes], *, last: bool) -> int:
    code = process.wait()
    print(f"\ntest: {part} {_outcome(code)}{'' if last else '; waiting for the others'}", flush=True)
    return code


def _summarize(rings: dict[str, RingReport], codes: dict[str, int], minutes: float) -> None:
    print(f"\ntest: {', '.join(f'{part} {_outcome(code)}' for part, code in codes.items())}, {minutes:.1f} min")
    print("\n".join(lines(rings)))
    passed, failed = sum(ring.passed for ring in rings.values()), sum(ring.failed for ring in rings.values())
    skipped = sum(sum(ring.skipped.values()) for ring in rings.values())
    print(f"{passed} passed, {failed} failed, {skipped} skipped", flush=True)


def _outcome(code: int) -> str:
    return "passed" if code == 0 else "ran no test" if code == _NOTHING else f"FAILED (exit code {code})"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
