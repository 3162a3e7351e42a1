"""The examples of deploy/consumers on a real Kafka process each record once, although some are sent twice."""

from __future__ import annotations

import functools
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest
from brokers import JARS

from tests.kafka.batches import make_batch
from tests.kafka.site import Site, until
from tests.schemas import ROOT
from tests.whole_lines import whole_lines

pytestmark = pytest.mark.kafka

EXAMPLES = ROOT / "deploy/consumers"


@functools.cache
def commands() -> dict[str, list[str]]:
    """Return the command of each example."""
    found = {
        "python": [sys.executable, str(EXAMPLES / "consume.py")],
        "shell": ["sh", str(EXAMPLES / "consume.sh")],
    }
    modules = subprocess.run(["java", "--list-modules"], capture_output=True, text=True, check=True).stdout
    if "jdk.compiler" in modules:
        found["java"] = ["java", "-XX:TieredStopAtLevel=1", "-cp", f"{JARS}/*", str(EXAMPLES / "Consume.java")]
    return found


class Example:
    """A running consumer, and the lines that it printed."""

    def __init__(self, command: list[str], site: Site, name: str, run: int) -> None:
        self._out, self._err = (site.folder / f"{name}-{run}.{kind}" for kind in ("out", "err"))
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self._process = subprocess.Popen(
                [*command, site.broker, f"{site.prefix}.flows.denied", f"{site.prefix}.{name}"],
                stdin=subprocess.DEVNULL, stdout=out, stderr=err, start_new_session=True,
            )  # fmt: skip

    def lines(self) -> list[list[str]]:
        return [line.decode().split("\t") for line in whole_lines(self._out)]

    def problem(self) -> str:
        """Return whether it runs, and what it complains of."""
        return f"{self._process.args!r} (exit code {self._process.poll()}): {self._err.read_text()[-2000:]}"

    def has_printed(self, expected: set[str]) -> bool:
        """Return whether it has printed lines with these ids."""
        assert self._process.poll() is None, self.problem()
        return expected <= set(self.ids())

    def ids(self) -> list[str]:
        return [line[0] for line in self.lines()]

    def kill(self) -> None:
        """Stop the whole process group: a pipe has several processes."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


@pytest.fixture
def examples(site: Site) -> Iterator[dict[str, list[Example]]]:
    """Return the runs of each example by name; the last one is running."""
    made: dict[str, list[Example]] = {}
    yield made
    for runs in made.values():
        for run in runs:
            run.kill()


def begin(examples: dict[str, list[Example]], site: Site) -> None:
    for name, command in commands().items():
        runs = examples.setdefault(name, [])
        runs.append(Example(command, site, name, len(runs)))


def names(*numbers: range) -> set[str]:
    return {f"r1-{number}" for some in numbers for number in some}


def wait_for(run: Example, expected: set[str]) -> None:
    """Wait for lines. The example in Java is compiled first, and a group waits for the end of a killed member's session
    before its successor reads."""
    until(lambda: run.has_printed(expected), run.problem, 240)


@pytest.mark.timeout(1200)
def test_each_prints_every_denied_connection_once_and_goes_on_after_kill_9(
    site: Site, examples: dict[str, list[Example]]
) -> None:
    assert shutil.which("jq"), "run deploy/local/setup"
    site.start_enrich()
    first = make_batch(0, 100, denied=True, ingress=True)
    for value in (first, make_batch(100, 50), first, make_batch(150, 50, denied=True)):
        site.send(value)
    site.flush()
    begin(examples, site)
    for (run,) in examples.values():
        wait_for(run, names(range(100), range(150, 200)))
        assert run.lines()[0] == ["r1-0", "deny", "shop/api-0", "shop/web-0:8080", "web-allow-api"]
        run.kill()
    for value in (make_batch(200, 100, denied=True), make_batch(200, 100, denied=True)):
        site.send(value)
    site.flush()
    begin(examples, site)
    for name, runs in examples.items():
        wait_for(runs[1], names(range(200, 300)))
        for run in runs:
            assert len(set(run.ids())) == len(run.ids()), f"{name} printed a repeat"
        assert {one for run in runs for one in run.ids()} == names(range(100), range(150, 300))
    if "java" not in examples:
        pytest.skip("this Java has no compiler (jdk.compiler): the example in Java was not run, the others were")
