"""All tests in five pytest processes side by side. ``python -m tests [--lint] [pytest's arguments]``. ``--lint`` runs
``make lint`` beside them, which has one core to itself while the tests are collected.

Kernel tests mostly wait for the kernel, others for Kafka or an API server, so that five processes keep two cores busy.
Each begins with the tests of one kind, and when these are done it takes what is left of the others
(tests/work_queue.py), so that no core is idle at the end. The kinds are:

1. ``computing``: the tests that need no kernel program, no Kafka and no API server.
2. ``tcx`` and ``clsact``: the kernel tests, by the way of attaching. Those that have no such parameter are in ``tcx``.
3. ``kafka``: the tests with Kafka, traffic and the demo.
4. ``cluster``: the tests with an API server, and the install on a real cluster.

One process collects the tests and forks the five (tests/lanes.py). The output of the first is shown as it comes, that
of the others when all have ended. They share no names: every test makes its
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
from typing import Final

from tests import durations
from tests.lanes import LANES, NO_TESTS, code_of, durations_of, outcome, output_of, report_of
from tests.programs import with_kept_bytecode
from tests.report import RingReport, lines, merged

_ROOT: Final = Path(__file__).parents[1]
_END_S: Final = 60
LINT: Final = ("make", "--no-print-directory", "--old-file=setup", "lint")
"""Without the set-up, which was run before: beside the tests, it could take away what they use."""


def run(folder: Path, arguments: Sequence[str]) -> subprocess.Popen[bytes]:
    """Start the process that collects the tests. It has no cache of pytest, which could not say what failed where."""
    # Without "=" pytest takes the existing folder for a path of tests when it looks for its settings, and finds none.
    options = ["-p", "tests.report", f"--report={folder / 'report'}", "-p", "tests.work_queue"]
    options += [f"--queue={folder / 'queue'}", "-p", "no:cacheprovider", "-o", "console_output_style=classic"]
    return subprocess.Popen([sys.executable, "-m", "pytest", *options, *arguments], env=with_kept_bytecode(os.environ))


def main(arguments: Sequence[str]) -> int:
    """Run all tests and return the exit code: that of a process that failed, else 0."""
    started = time.monotonic()
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    with_lint = "--lint" in arguments
    arguments = [argument for argument in arguments if argument != "--lint"]
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        (folder / "queue").mkdir()
        running: dict[str, subprocess.Popen[bytes]] = {}
        try:
            lint = stack.enter_context(_lint(running)) if with_lint else None
            running["tests"] = run(folder, arguments)
            # Ctrl-C reaches the processes by itself, and each reports what it has done until then.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            code = running["tests"].wait()
            codes = {lane: code_of(lane, folder, otherwise=code) for lane in LANES}
            if lint is not None:
                codes["lint"] = lint.result()
        finally:
            for process in running.values():
                process.terminate()
            # They still write into the folder.
            with contextlib.suppress(subprocess.TimeoutExpired):
                for process in running.values():
                    process.wait(_END_S)
        for output in (output_of(lane, folder) for lane in LANES):
            sys.stdout.buffer.write(output.read_bytes() if output.exists() else b"")
        rings = merged(report_of(lane, folder) for lane in LANES)
        taken = durations.merged(durations_of(lane, folder) for lane in LANES)
    durations.keep(taken)
    if taken:
        print("\n".join(["", "test: what took most CPU", *durations.lines(taken)]))
    _summarize(rings, codes, (time.monotonic() - started) / 60)
    failed = [code for code in codes.values() if code not in (0, NO_TESTS)]
    return failed[0] if failed else min(codes[lane] for lane in LANES)


@contextlib.contextmanager
def _lint(running: dict[str, subprocess.Popen[bytes]]) -> Iterator[Future[int]]:
    """Run ``make lint``, and print what it has found as soon as it ends."""

    def wait() -> int:
        output = process.communicate()[0]
        print(
            f"\ntest: lint {outcome(process.returncode)}\n{'' if process.returncode == 0 else output.decode()}",
            flush=True,
        )
        return process.returncode

    process = subprocess.Popen(LINT, cwd=_ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    running["lint"] = process
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(wait)


def _summarize(rings: dict[str, RingReport], codes: dict[str, int], minutes: float) -> None:
    print(f"\ntest: {', '.join(f'{lane} {outcome(code)}' for lane, code in codes.items())}, {minutes:.1f} min")
    print("\n".join(lines(rings)))
    passed, failed = sum(ring.passed for ring in rings.values()), sum(ring.failed for ring in rings.values())
    skipped = sum(sum(ring.skipped.values()) for ring in rings.values())
    print(f"{passed} passed, {failed} failed, {skipped} skipped", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
