"""Measures what answers about the past cost: a table, and JSON with ``--json FILE``.

A module of this folder with a function ``rows`` that yields :class:`tests.bench_history.row.Row` is measured, if it is
in ``_MODULES``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.bench_history import backtests, commands, observing, queries, verifying
from tests.bench_history.row import Row

_MODULES: dict[str, Callable[[], Iterator[Row]]] = {
    "backtests": backtests.rows,
    "commands": commands.rows,
    "observing": observing.rows,
    "sql": queries.rows,
    "verifying": verifying.rows,
}


def main() -> None:
    """Measure, print, and write JSON if that is asked for."""
    parser = argparse.ArgumentParser(prog="make bench-history")
    parser.add_argument("--json", type=Path, default=None)
    parser.add_argument("--only", choices=list(_MODULES), default=None, help="measure a part")
    chosen = parser.parse_args()
    found = []
    for name, rows in _MODULES.items():
        for row in rows() if chosen.only in (None, name) else ():
            found.append(row)
            rate = row.number / row.seconds if row.seconds else 0.0
            print(f"{row.name:48} {row.seconds:9.2f} s {rate:14,.0f} a second   {row.about}", flush=True)
    if chosen.json is not None:
        chosen.json.write_text(json.dumps([row._asdict() for row in found], indent=1) + "\n")


if __name__ == "__main__":
    main()
