"""All tests in five pytest processes side by side. ``python -m tests [--lint] [pytest's arguments]``; each process gets
the latter. ``--lint`` runs ``make lint`` beside them, which has one core to itself while the tests are collected.

Kernel tests mostly wait for the kernel, others for Kafka or an API server, so that five processes keep two cores busy.
Each begins with the tests of one kind, and when these are done it takes what is left of the others
(tests/work_queue.py), so that no core is idle at the end. The kinds are:

1. ``computing``: the tests that need no kernel program, no Kafka and no API server.
2. ``tcx`` and ``clsact``: the kernel tests, by the way of attaching. Those that have no such parameter are in ``tcx``.
3. ``kafka``: the tests with Kafka, traffic and the demo.
4. ``cluster``: the tests with an API server, and the install on a real cluster.

The first process collects alone, so that the others load the bytecode that it has compiled in a fresh clone. Its
output is shown as it comes, that of the others when all have ended. They share no names: every test makes its
namespaces, pins, ports and folders under random names; the demo and the real cluster, which have fixed names, are in
one file and in one folder, which one process runs. At the end stand the time and the counts of each ring, and one line
for each reason for skips.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO, Final

import pytest

from tests.programs import with_kept_bytecode
from tests.report import RingReport, lines, merged
from tests.work_queue import COLLECTED, LANES

_ROOT: Final = Path(__file__).parents[1]
LINT: Final = ("make", "--no-print-directory", "--old-file=setup", "lint")
"""Without the set-up, which was run before: beside the tests, it could take away what they use."""
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
    with_lint = "--lint" in arguments
    arguments = [argument for argument in arguments if argument != "--lint"]
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        (folder / "queue").mkdir()
        outputs = {lane: stack.enter_context(tempfile.TemporaryFile()) for lane in LANES[1:]}
        running: dict[str, subprocess.Popen[bytes]] = {}
        try:
            lint = stack.enter_context(_lint(running)) if with_lint else None
            running[LANES[0]] = run(LANES[0], folder, arguments, None)
            _wait_until_collected(folder / "queue", running[LANES[0]])
            running |= {lane: run(lane, folder, arguments, outputs[lane]) for lane in LANES[1:]}
            # Ctrl-C reaches the processes by itself, and each reports what it has done until then.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            codes = {lane: _wait(lane, running[lane], last=lane == LANES[-1]) for lane in LANES}
            if lint is not None:
                codes["lint"] = lint.result()
        finally:
            for process in running.values():
                process.terminate()
        for output in outputs.values():
            output.seek(0)
            sys.stdout.buffer.write(output.read())
        rings = merged(folder / lane for lane in LANES)
    _summarize(rings, codes, (time.monotonic() - started) / 60)
    failed = [code for code in codes.values() if code not in (0, _NOTHING)]
    return failed[0] if failed else min(codes[lane] for lane in LANES)


@contextlib.contextmanager
def _lint(running: dict[str, subprocess.Popen[bytes]]) -> Iterator[Future[int]]:
    """Run ``make lint``, and print what it has found as soon as it ends."""

    def wait() -> int:
        output = process.communicate()[0]
        outcome = _outcome(process.returncode)
        print(f"\ntest: lint {outcome}\n{'' if process.returncode == 0 else output.decode()}", flush=True)
        return process.returncode

    process = subprocess.Popen(LINT, cwd=_ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    running["lint"] = process
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(wait)


def _wait_until_collected(queue: Path, first: subprocess.Popen[bytes]) -> None:
    while first.poll() is None and not (queue / COLLECTED).exists():
        time.sleep(0.1)


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
