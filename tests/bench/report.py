"""The figures as a table for people and as JSON for programs."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson
from rich.console import Console
from rich.table import Table

from tests.bench.result import Figure, Part


def print_table(parts: Mapping[str, Part], machine: Mapping[str, Any]) -> None:
    """Print the figures on stdout."""
    console = Console(highlight=False)
    if not console.is_terminal:
        # A file or a pipe has no width, and rich would assume 80 columns and cut lines.
        console = Console(highlight=False, width=120)
    for part in parts.values():
        table = Table(title=f"\n{part.title}", title_justify="left", title_style="bold", caption=part.how,
                      caption_justify="left", caption_style="", width=min(console.width, 120))  # fmt: skip
        table.add_column("case", ratio=1)
        table.add_column("measure")
        for column in ("median", "min - max", "aim"):
            table.add_column(column, justify="right", no_wrap=True)
        for before, figure in zip([None, *part.figures], part.figures, strict=False):
            same = before is not None and before.case == figure.case
            table.add_row("" if same else figure.case, figure.measure, *_numbers(figure))
        console.print(table)
        console.print("counted: " + ", ".join(f"{name} {number:,}" for name, number in part.counts.items()))
    console.print("\nmachine: " + ", ".join(f"{name} {value}" for name, value in machine.items()))


def _numbers(figure: Figure) -> tuple[str, str, str]:
    low, high = min(figure.samples), max(figure.samples)
    aim = "" if figure.aim is None else _number(figure.aim)
    return _number(figure.median), f"{_number(low)} - {_number(high)}" if len(figure.samples) > 1 else "", aim


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 2 else f"{value:.2f}"


def write_json(path: Path, parts: Mapping[str, Part], machine: Mapping[str, Any], *, quick: bool) -> None:
    """Write the figures as one JSON object, and make the folder if it does not exist."""
    path.parent.mkdir(parents=True, exist_ok=True)
    report = {
        "schema": 1,
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "quick": quick,
        "machine": dict(machine),
        "parts": {name: part.as_json() for name, part in parts.items()},
    }
    path.write_bytes(orjson.dumps(report, option=orjson.OPT_INDENT_2) + b"\n")
