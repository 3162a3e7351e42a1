"""How long `weir observe` takes to the first line about one pod, and `weir explain` to explain a record by its id, in
the records of a day; see :mod:`tests.bench.observing`."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from enrich.wire.journal import JournalEntry, Profile
from tests.bench.observing import CLUSTER, QUESTIONS, RECORD_ID, ask, fill
from tests.bench_history.commands import run_weir
from tests.bench_history.past import write_journal
from tests.bench_history.row import Row
from tests.enrich.history.journals import START_NS, begin, entry, namespace, policy
from tests.kafka.broker import running_broker

_PREFIX: Final = "observing"
_DAYS_NS: Final = 2 * 86_400 * 10**9


def rows() -> Iterator[Row]:
    """Yield a row for each question and size."""
    for records in (1_000_000, 10_000_000):
        with (
            tempfile.TemporaryDirectory(prefix="kubeweir-bench-") as folder,
            running_broker(Path(folder)) as servers,
        ):
            yield from rows_of(servers, records)


def rows_of(servers: str, records: int) -> Iterator[Row]:
    """Yield a row for each question."""
    fill(servers, _PREFIX, records)
    for question, arguments in QUESTIONS.items():
        found = ask(servers, _PREFIX, arguments)
        about = f"to the first of {found.lines} lines; the end after {found.end_s:.2f} s, "
        about += f"{found.cpu_s:.2f} s of a core"
        yield Row(f"observe {question} of {records:,}", found.first_s, records, about)
    write_journal(servers, _PREFIX, _journal(), CLUSTER, time.time_ns())
    done = run_weir(servers, _PREFIX, ("explain", RECORD_ID % (records // 2), "--since", "1d", "-o", "json"))
    assert done.code == 0, done.about
    assert json.loads(done.output)["agrees"] is True
    yield Row(f"explain a record of {records:,}, in the middle of them", done.seconds, records, done.about)


def _journal() -> Iterator[JournalEntry]:
    """Yield who the records' pods are, and the policy that let them."""
    shift_ns = START_NS - time.time_ns() + _DAYS_NS
    found = [begin(), entry(namespace("back"), 0)]
    found.append(entry(_profile("back", "api"), 0))
    for number in range(20):
        name = f"shop-{number}"
        found += [entry(namespace(name), 0), entry(_profile(name, "web"), 0)]
        found.append(entry(policy("web-allow-api", {"podSelector": {}, "egress": [{}]}, name), 0))
    for one in found:
        yield msgspec.structs.replace(one, seen_ns=one.seen_ns - shift_ns)


def _profile(namespace: str, name: str) -> Profile:
    return Profile(namespace=namespace, workload_kind="Deployment", workload_name=name, labels={"app": name})
