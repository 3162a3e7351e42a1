"""How long `weir verify` takes to judge the records of an hour again; see :mod:`tests.bench.verifying`."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.bench.result import expect
from tests.bench.verifying import COMBINATIONS, ask, fill
from tests.bench_history.row import Row
from tests.kafka.broker import running_broker


def rows() -> Iterator[Row]:
    """Yield a row for each size."""
    for records in (1_000_000, 10_000_000):
        with (
            tempfile.TemporaryDirectory(prefix="kubeweir-bench-") as folder,
            running_broker(Path(folder)) as servers,
        ):
            fill(servers, "verifying", records)
            yield row_of(servers, "verifying", records)


def row_of(servers: str, prefix: str, records: int) -> Row:
    """Ask about topics that are filled."""
    found = ask(servers, prefix)
    expect(found.read, records, "the records read")
    about = f"{COMBINATIONS:,} distinct combinations; {found.cpu_s:.1f} s of a core, {found.peak_mib:.0f} MiB at most"
    return Row(f"verify {records:,} records", found.wall_s, records, about)
