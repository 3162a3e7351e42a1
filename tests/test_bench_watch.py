"""A test that `make bench-watch` runs, with its smallest sizes; the figures do not matter."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path


def test_the_quick_run_measures_every_reader(tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    command = [sys.executable, "-m", "tests.bench_watch", "--quick", "--json", str(path)]
    done = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = json.loads(path.read_text())["rows"]
    assert [(row["what"], row["pods"]) for row in rows] == [
        (what, pods) for pods in (100, 1000) for what in ("nobody", "ours", "informer")
    ]
    assert all(row["sync_s"] > 0 and row["event_ms_p99"] > 0 for row in rows)
    assert all(row["churn_bytes_per_s"] > 0 for row in rows if row["what"] == "ours")
