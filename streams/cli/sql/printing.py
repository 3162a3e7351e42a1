"""The forms in which `weir sql` shows an answer. Rows are written as they are computed."""

from __future__ import annotations

import csv
import datetime
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from decimal import Decimal
from itertools import islice
from typing import IO, Any, Final

from streams.cli.sql.database import QueryResult
from streams.cli.terminal import printable

_MEASURED: Final = 1_000
"""Rows by which the widths of a table's columns are chosen."""
_NUMBERS: Final = frozenset({"BIGINT", "DOUBLE", "FLOAT", "HUGEINT", "INTEGER", "SMALLINT", "TINYINT", "UBIGINT",
                             "UHUGEINT", "UINTEGER", "USMALLINT", "UTINYINT"})  # fmt: skip


def write_table(answer: QueryResult, out: IO[str]) -> None:
    """Write an aligned table. The widths are those of its first rows."""
    rows = ([printable(_text(value)) for value in row] for row in answer.rows)
    headings = [printable(name) for name in answer.names]
    first = list(islice(rows, _MEASURED))
    widths = [max(map(len, column)) for column in zip(headings, *first, strict=True)]
    right = [one in _NUMBERS or one.startswith("DECIMAL") for one in answer.types]
    for row in _chained([headings], first, rows):
        cells = (
            cell.rjust(width) if is_number else cell.ljust(width)
            for cell, width, is_number in zip(row, widths, right, strict=True)
        )
        out.write("  ".join(cells).rstrip() + "\n")


def write_json(answer: QueryResult, out: IO[str]) -> None:
    """Write one JSON object a line for each row."""
    for row in answer.rows:
        made = {name: _plain(value) for name, value in zip(answer.names, row, strict=True)}
        out.write(json.dumps(made, ensure_ascii=False, separators=(",", ":")) + "\n")


def write_csv(answer: QueryResult, out: IO[str]) -> None:
    """Write CSV with a line of headings. NULL is empty; lists are JSON. For a terminal, what it obeys is escaped."""
    shown = printable if out.isatty() else str
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([shown(name) for name in answer.names])
    for row in answer.rows:
        writer.writerow(["" if value is None else shown(_text(value)) for value in row])


OUTPUTS: Final[Mapping[str, Callable[[QueryResult, IO[str]], None]]] = {
    "table": write_table,
    "json": write_json,
    "csv": write_csv,
}


def _chained(*parts: Any) -> Iterator[Sequence[str]]:
    for part in parts:
        yield from part


def _text(value: Any) -> str:
    """Return a value as tables and CSV have it."""
    plain = _plain(value)
    if plain is None:
        return ""
    if isinstance(plain, str):
        return plain
    return json.dumps(plain, ensure_ascii=False, separators=(",", ":"))


def _plain(value: Any) -> Any:
    """Return a value as JSON has it: times as RFC 3339 text, and what JSON lacks as text or null."""
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            return value if math.isfinite(value) else None
        case datetime.datetime():
            return f"{value.replace(tzinfo=None).isoformat()}Z"
        case datetime.date() | datetime.time():
            return value.isoformat()
        case Decimal():
            return int(value) if value == value.to_integral_value() else float(value)
        case bytes():
            return value.hex()
        case dict():
            return {str(key): _plain(one) for key, one in value.items()}
        case list() | tuple() | set():
            return [_plain(one) for one in value]
        case _:
            return str(value)
