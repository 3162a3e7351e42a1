"""All tests in five pytest processes side by side. ``python -m tests [pytest's arguments]``; each process gets them.

Kernel tests mostly wait for the kernel, others for Kafka or an API server, so that five processes keep two cores busy.
Each begins with the tests of one kind, and when these are done it takes what is left of the others
(tests/work_queue.py), so that no core is idle at the end. The kinds are:

1. ``computing``: the tests that need no kernel program, no Kafka and no API server.
2. ``tcx`` and ``clsact``: the kernel tests, by the way of attaching. Those that have no such parameter are in ``tcx``.
3. ``kafka``: the tests with Kafka, traffic and the demo.
4. ``cluster``: the tests with an API server, and the install on a real cluster.

The output of the first process is shown as it comes, that of the others when all have ended. They share no names: every
test makes its namespaces, pins, ports and folders under random names; the demo and the real cluster, which have fixed
names, are in one file and in one folder, which one process runs. At the end stand the time and the counts of each ring,
and one line for each reason for skips.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, Final

import pytest

from tests.programs import with_kept_bytecode
from tests.report import RingReport, lines, merged
from tests.work_queue import LANES

_NOTHING: Final = pytest.ExitCode.NO_TESTS_COLLECTED


def run(lane: str, folder: Path, arguments: Sequence[str], output: BinaryIO | None) -> subprocess.Popen[bytes]:
    """Start one process. None has pytest's cache, which could not say what failed in the others."""
    # Without "=" pytest takes the existing folder for a path of tests when it looks for its settings, and finds none.
    options = ["-p", "tests.report", f"--report={folder / lane}", "-p", "tests.work_queue", f"--lane={lane}"]
    options += [f"--queue={folder / 'queue'}", "-p", "no:cacheprovider", "-o", "console_output_style=classic"]
    if output is not None and sys.stdout.isatty():
        options.append("--color=yes")
    command = [sys.executable, "-m", "pytest", *options, *arguments]
    return subprocess.Popen(command, env=with_kept_bytecode(os.environ), stdout=output, stderr=output)


def main(arguments: Sequence[str]) -> int:
    """Run all tests and return the exit code: that of a process that failed, else 0."""
    started = time.monotonic()
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        (folder / "queue").mkdir()
        outputs = {lane: stack.enter_context(tempfile.TemporaryFile()) for lane in LANES[1:]}
        running = {lane: run(lane, folder, arguments, outputs.get(lane)) for lane in LANES}
        # Ctrl-C reaches the processes by itself, and each reports what it has done until then.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            codes = {lane: _wait(lane, process, last=lane == LANES[-1]) for lane, process in running.items()}
        finally:
            for process in running.values():
                process.terminate()
        for output in outputs.values():
            output.seek(0)
            sys.stdout.buffer.write(output.read())
        rings = merged(folder / lane for lane in LANES)
    _summarize(rings, codes, (time.monotonic() - started) / 60)
    failed = [code for code in codes.values() if code not in (0, _NOTHING)]
    return failed[0] if failed else min(codes.values())


def _wait(lane: str, process: subprocess.Popen[bytes], *, last: bool) -> int:
    code = process.wait()
    print(f"\ntest: {lane} {_outcome(code)}{'' if last else '; waiting for the others'}", flush=True)
    return code


def _summarize(rings: dict[str, RingReport], codes: dict[str, int], minutes: float) -> None:
    print(f"\ntest: {', '.join(f'{lane} {_outcome(code)}' for lane, code in codes.items())}, {minutes:.1f} min")
    print("\n".join(lines(rings)))
    passed, failed = sum(ring.passed for ring in rings.values()), sum(ring.failed for ring in rings.values())
    skipped = sum(sum(ring.skipped.values()) for ring in rings.values())
    print(f"{passed} passed, {failed} failed, {skipped} skipped", flush=True)


def _outcome(code: int) -> str:
    return "passed" if code == 0 else "ran no test" if code == _NOTHING else f"FAILED (exit code {code})"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
