"""A condition on time shortens what is read, if it must hold for every row; anything else shortens nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute
import pytest

from streams.cli.sql.arrow import Scanned, earliest_ns
from streams.cli.sql.database import Database

NINE = 1_796_029_200_000_000_000
HOUR = 3_600_000_000_000
UNESCAPED = '"]}), x) and ((timestamp > 2099-01-01 00:00:00.000000) and ((('
"""Ends the list in which it stands, in the text of the condition: pyarrow does not escape the texts of lists."""
SCHEMA = pa.schema([
    ("timestamp", pa.timestamp("us")), ("last_timestamp", pa.timestamp("us")), ("name", pa.string()), ("n", pa.int64()),
])  # fmt: skip


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Database, list[int | None]]]:
    times: list[int | None] = []

    def scan(_columns: Sequence[str], earliest: int | None) -> Iterator[Any]:
        times.append(earliest)
        return iter(())

    made = Database({"v": Scanned(SCHEMA, scan)}, "500MB", tmp_path_factory.mktemp("sql"), "1GB")
    yield made, times
    made.close()


@pytest.mark.parametrize(
    ("condition", "earliest"),
    [
        ("timestamp >= '2026-11-30 09:00'", NINE),
        ("timestamp > '2026-11-30 09:00:00.25'", NINE + 250_000_000),
        ("timestamp BETWEEN '2026-11-30 09:00' AND '2026-11-30 10:00' AND n > 3", NINE),
        ("NOT timestamp < '2026-11-30 09:00' AND timestamp > '2026-11-30 08:00'", NINE),
        ("timestamp = '2026-11-30 09:00'", NINE),
        ("timestamp > '2026-11-30 09:00' AND (name = 'x' OR name = 'a\"b ) and (timestamp > 1') AND n = 1", NINE),
        ("timestamp > '2026-11-30 08:00' AND (n = 1 OR timestamp > '2026-11-30 09:00')", NINE - HOUR),
        ("n = 1 OR timestamp > '2026-11-30 09:00'", None),
        ("timestamp < '2026-11-30 09:00'", None),
        ("last_timestamp > '2026-11-30 09:00'", None),
        ("name = ') and (timestamp > 2026-11-30 09:00:00.000000) and ('", None),
        ("name = '\" and (timestamp > 2026-11-30 09:00:00.000000) and (name == \"'", None),
        (f"name IN ('a', 'b', 'c', '{UNESCAPED}')", None),
        (f"name IN ('a', 'b', 'c', '{UNESCAPED}') AND timestamp >= '2026-11-30 09:00'", NINE),
        ("timestamp IN ('2026-11-30 09:00', '2026-11-30 10:00')", None),
        ("NOT (timestamp > '2026-11-30 09:00' AND n = 1)", None),
        ("timestamp > now() - INTERVAL 1 hour", None),
        ("n = 1", None),
    ],
)
def test_a_condition_says_from_when_on_rows_are_wanted(
    condition: str, earliest: int | None, asked: tuple[Database, list[int | None]]
) -> None:
    database, times = asked
    times.clear()
    query = f"SELECT count(n) FROM v WHERE {condition}"  # noqa: S608 - conditions of this file
    assert list(database.answer(query).rows) == [(0,)]
    assert times == [earliest]
    assert database.compares_time == ("timestamp" in condition.replace(UNESCAPED, "").partition("name = ")[0])


def test_no_condition_shortens_nothing() -> None:
    assert earliest_ns(None, SCHEMA) is None
    year_0 = pa.compute.field("timestamp") >= pa.scalar(-62_167_219_200_000_000, pa.timestamp("us"))
    assert earliest_ns(year_0, SCHEMA) is None, "Python has no such year"


def test_a_time_in_what_is_selected_is_no_condition(tmp_path: Path) -> None:
    database = Database({"v": Scanned(SCHEMA, lambda _columns, _earliest: iter(()))}, "500MB", tmp_path, "1GB")
    list(database.answer("SELECT timestamp, n FROM v WHERE n = 1 ORDER BY timestamp").rows)
    assert not database.compares_time
    list(database.answer("SELECT n FROM (SELECT n, timestamp AS at FROM v WHERE v.timestamp > now()) WHERE n = 1").rows)
    assert database.compares_time
    database.close()
