"""The commands that answer from pairs, whole: from their start, with all that they read from a real Kafka.

`weir backtest`, `weir recommend` and `weir policies` about a week of a cluster of 1,000 workloads.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from enrich.wire.journal import JournalEntry
from enrich.wire.pair import HOUR_NS
from tests.bench_history.backtests import HOURS, VERDICTS, journal, keys
from tests.bench_history.past import write_journal, write_pairs
from tests.bench_history.row import Row
from tests.enrich.history.journals import CLUSTER, START_NS
from tests.kafka.broker import running_broker

_PREFIX: Final = "history"
_POLICY: Final = """
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: allow, namespace: ns-1}
spec: {podSelector: {}, ingress: [{from: [{podSelector: {matchLabels: {app: app-0}}}]}]}
"""


class Done(NamedTuple):
    """What a command said, and what it took."""

    output: str
    code: int
    seconds: float
    about: str


def run_weir(servers: str, prefix: str, arguments: Sequence[str]) -> Done:
    """Run the command, and measure it with the start of Python."""
    command = [sys.executable, "-m", "streams.cli.main", *arguments, "--kafka", servers, "--topic-prefix", prefix]
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = subprocess.run(command, stdout=subprocess.PIPE, env=dict(os.environ), text=True, check=False)
    seconds, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Done(done.stdout, done.returncode, seconds, f"exit code {done.returncode}, {cpu:.2f} s of a core")


def rows() -> Iterator[Row]:
    """Yield a row for each command and size."""
    for connections in (1_000_000, 10_000_000):
        with (
            tempfile.TemporaryDirectory(prefix="kubeweir-bench-") as folder,
            running_broker(Path(folder)) as servers,
        ):
            yield from _rows_of(servers, Path(folder), connections)


def _rows_of(servers: str, folder: Path, connections: int) -> Iterator[Row]:
    # The journal of the backtests begins some hours ago, and has a week: this one ends now.
    until_ns = time.time_ns()
    hours = range(until_ns // HOUR_NS - HOURS, until_ns // HOUR_NS)
    shift_ns = START_NS - (hours.start - 1) * HOUR_NS
    write_journal(servers, _PREFIX, (_shifted(one, shift_ns) for one in journal()), CLUSTER, until_ns)
    each = max(1, connections // VERDICTS // HOURS)
    write_pairs(servers, _PREFIX, keys(each), hours, VERDICTS, CLUSTER)
    file = folder / "policy.yaml"
    file.write_text(_POLICY)
    window = ("--since", f"{HOURS + 1}h", "-o", "json", "--pod-cidr", "10.0.0.0/8")
    seen = each * HOURS * VERDICTS
    questions = {"backtest": ("backtest", str(file)), "recommend": ("recommend",), "policies": ("policies",)}
    for question, arguments in questions.items():
        done = run_weir(servers, _PREFIX, (*arguments, *window))
        _check(question, done, seen)
        yield Row(f"weir {question} of {seen:,} connections", done.seconds, seen, done.about)


def _shifted(one: JournalEntry, by_ns: int) -> JournalEntry:
    return msgspec.structs.replace(one, seen_ns=one.seen_ns - by_ns)


def _check(question: str, done: Done, seen: int) -> None:
    """Check that the answer is about everything that was written."""
    found: Any = json.loads(done.output)
    if question == "backtest":
        assert done.code == 1, done.about
        assert sum(one["connections"] for one in found["sums"].values()) == seen, found["sums"]
        assert found["sums"]["newly_denied"]["connections"], found["sums"]
    else:
        assert done.code == 0, done.about
