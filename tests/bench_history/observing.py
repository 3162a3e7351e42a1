"""How long `weir observe` takes to the first line about one pod, in the records of a day; see
:mod:`tests.bench.observing`."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.bench.observing import QUESTIONS, ask, fill
from tests.bench_history.row import Row
from tests.kafka.broker import running_broker


def rows() -> Iterator[Row]:
    """Yield a row for each question and size."""
    for records in (1_000_000, 10_000_000):
        with (
            tempfile.TemporaryDirectory(prefix="kubeweir-bench-") as folder,
            running_broker(Path(folder)) as servers,
        ):
            fill(servers, "observing", records)
            for question, arguments in QUESTIONS.items():
                found = ask(servers, "observing", arguments)
                about = f"to the first of {found.lines} lines; the end after {found.end_s:.2f} s, "
                about += f"{found.cpu_s:.2f} s of a core"
                yield Row(f"observe {question} of {records:,}", found.first_s, records, about)
