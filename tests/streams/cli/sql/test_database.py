"""The database answers queries about its tables, and gives nothing else away."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from streams.cli.sql.arrow import Scanned
from streams.cli.sql.database import Database, NoAnswerError, QueryError

SCHEMA = pa.schema([("number", pa.int64()), ("name", pa.dictionary(pa.int32(), pa.string())), ("other", pa.int64())])
BATCHES = 4


class Source:
    """A table of three rows a batch, in which the same codes mean other texts in each batch."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []
        self.made = 0

    def scan(self, columns: Sequence[str], _earliest_ns: int | None) -> Iterator[Any]:
        self.asked.append(list(columns))
        for batch in range(BATCHES):
            self.made += 1
            arrays = {
                "number": pa.array(range(3 * batch, 3 * batch + 3)),
                "name": pa.DictionaryArray.from_arrays(pa.array([0, 1, None], pa.int32()), [f"n{batch}", "same"]),
                "other": pa.array([1, 1, 1]),
            }
            yield pa.record_batch({name: arrays[name] for name in columns})


class Opened:
    def __init__(self, folder: Path, memory: str = "500MB", disk: str = "1GB") -> None:
        self.source = Source()
        self.database = Database({"things": Scanned(SCHEMA, self.source.scan)}, memory, folder, disk)

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        return list(self.database.answer(query).rows)


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Opened]:
    spilled = tmp_path / "spilled"
    spilled.mkdir()
    made = Opened(spilled)
    yield made
    made.database.close()


def test_a_query_is_answered_with_the_columns_that_it_needs(opened: Opened) -> None:
    assert opened.rows("SELECT sum(number) FROM things") == [(66,)]
    assert opened.rows("SELECT name, count(*) FROM things GROUP BY ALL ORDER BY name NULLS LAST") == [
        ("n0", 1), ("n1", 1), ("n2", 1), ("n3", 1), ("same", 4), (None, 4),
    ]  # fmt: skip
    assert opened.source.asked == [["number"], ["name"]]


@pytest.mark.parametrize(
    ("condition", "numbers"),
    [
        ("name = 'n1'", [3]),
        ("name IN ('n1', 'n2')", [3, 6]),
        ("name IS NULL AND number > 6", [8, 11]),
        ("name LIKE 'n%' AND number < 4", [0, 3]),
        ("name <> 'same'", [0, 3, 6, 9]),
        ("number BETWEEN 2 AND 4 OR name = 'n3'", [2, 3, 4, 9]),
        ("name = 'number'", []),
    ],
)
def test_a_condition_may_be_about_a_column_that_is_not_shown(
    opened: Opened, condition: str, numbers: list[int]
) -> None:
    query = f"SELECT sum(other), list(number ORDER BY number) FROM things WHERE {condition}"  # noqa: S608 - a test's own text
    assert opened.rows(query) == [(len(numbers) or None, numbers or None)]
    assert opened.rows(f"SELECT other FROM things WHERE {condition}") == [(1,)] * len(numbers)  # noqa: S608 - as above


def test_a_table_may_be_named_twice(opened: Opened) -> None:
    query = "SELECT count(*) FROM things a JOIN things b USING (number) WHERE a.number IN (SELECT number FROM things)"
    assert opened.rows(query) == [(12,)]


def test_a_query_that_has_enough_reads_no_further(opened: Opened) -> None:
    assert len(opened.rows("SELECT number FROM things LIMIT 1")) == 1
    assert opened.source.made < BATCHES + 1


@pytest.mark.parametrize(
    "query",
    [
        "SELECT * FROM read_csv('{secret}')",
        "SELECT * FROM read_text('{secret}')",
        "SELECT * FROM read_blob('{secret}')",
        "SELECT * FROM '{secret}'",
        "SELECT * FROM glob('/*')",
        "SELECT * FROM things WHERE EXISTS (FROM read_text('{secret}'))",
        "WITH a AS (SELECT * FROM READ_CSV('{secret}')) SELECT * FROM a",
        "SELECT (SELECT content FROM read_text('{secret}'))",
        "FROM (PIVOT (FROM read_text('{secret}')) ON size IN (1) USING count(*))",
        "SELECT * FROM query('SELECT * FROM read_text(''{secret}'')')",
        "SELECT * FROM main.read_text('{secret}')",
        "SELECT * FROM json_execute_serialized_sql(json_serialize_sql('SELECT 1'))",
        "SELECT * FROM read_parquet('http://127.0.0.1:1/x.parquet')",
        "SELECT * FROM read_csv('s3://bucket/x')",
        "SELECT * FROM enable_logging(storage = 'file', storage_path = '{out}')",
        "SELECT * FROM duckdb_settings()",
        "COPY things TO '{out}'",
        "COPY (SELECT 1) TO '{out}'",
        "EXPORT DATABASE '{out}'",
        "ATTACH '{out}' AS other",
        "INSTALL httpfs",
        "LOAD httpfs",
        "LOAD '{out}'",
        "SET memory_limit = '100GB'",
        "SET enable_external_access = true",
        "RESET lock_configuration",
        "PRAGMA database_list",
        "CALL pragma_version()",
        "CREATE TABLE other AS SELECT 1",
        "CREATE MACRO f(a) AS a",
        "DROP VIEW things",
        "INSERT INTO things VALUES (1, 'a', 2)",
        "DELETE FROM things",
        "SELECT 1; SELECT 2",
        "SELECT 1; COPY things TO '{out}'",
        "EXPLAIN ANALYZE CREATE TABLE other AS SELECT 1",
        "PREPARE p AS SELECT 1",
        "USE memory",
        "CHECKPOINT",
        "",
        ";",
        "-- nothing",
        "SELECT * FROM nothing",
        "SELECT nothing FROM things",
        "SELEC 1",
        "SELECT name::INTEGER FROM things",
        "SELECT getenv('HOME')",
        "SELECT * FROM BATCHES",
        "SELECT * FROM opened",
        "SELECT '\udcff'",
        "SELECT 1\0, 2",
        "SELECT " + 900 * "abs(" + "1" + 900 * ")",
        "SELECT " + 5_000 * "(" + "1" + 5_000 * ")",
        "SELECT '" + 100_000 * "x" + "'",
    ],
)
def test_everything_but_reading_its_tables_is_refused(opened: Opened, query: str, tmp_path: Path) -> None:
    secret, out = tmp_path / "secret", tmp_path / "out"
    secret.write_text("a,b\n1,2\n")
    with pytest.raises(QueryError):
        opened.rows(query.format(secret=secret, out=out))
    assert not out.exists()
    # It still answers.
    assert opened.rows("SELECT 1") == [(1,)]


def test_without_the_check_duckdb_itself_refuses_files(opened: Opened, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("a,b\n1,2\n")
    connection = opened.database._connection
    for query in (f"FROM read_text('{secret}')", f"COPY things TO '{tmp_path / 'out'}'", "LOAD httpfs"):
        with pytest.raises(Exception, match="disabled"):
            connection.execute(query)
    with pytest.raises(Exception, match="locked"):
        connection.execute("SET enable_external_access = true")


def test_queries_that_need_too_much_end_without_an_answer(tmp_path: Path) -> None:
    opened = Opened(tmp_path, memory="30MB", disk="1MB")
    with pytest.raises(NoAnswerError, match=r"(?i)memory"):
        opened.rows("SELECT count(*) FROM (SELECT range, count(*) FROM range(5000000) GROUP BY range)")
    opened.database.close()


def test_what_does_not_fit_into_memory_goes_to_the_folder_and_away_again(tmp_path: Path) -> None:
    opened = Opened(tmp_path, memory="60MB", disk="1GB")
    query = "SELECT count(*) FROM (SELECT range, count(*) FROM range(3000000) GROUP BY range)"
    assert opened.rows(query) == [(3_000_000,)]
    opened.database.close()
    assert sum(file.stat().st_size for file in tmp_path.rglob("*") if file.is_file()) == 0


@pytest.mark.parametrize(
    "query", ["SELECT INTERVAL 1000000000 DAY", "SELECT range * INTERVAL 1000000000 DAY FROM range(2)"]
)
def test_a_value_that_python_does_not_have_is_named(opened: Opened, query: str) -> None:
    with pytest.raises(QueryError, match="a value that cannot be shown"):
        opened.rows(query)


def test_no_setting_tells_whose_home_it_is(opened: Opened, tmp_path: Path) -> None:
    assert opened.rows("SELECT current_setting('secret_directory')") == [(str(tmp_path / "spilled" / "secrets"),)]


@pytest.mark.parametrize(("memory", "most"), [("500MB", 500e6), ("2GiB", 2 << 30), ("0.5TB", 0.5e12)])
def test_the_amount_of_memory_is_known(tmp_path: Path, memory: str, most: float) -> None:
    made = Opened(tmp_path, memory=memory).database
    assert made.memory_bytes == pytest.approx(most, rel=0.01)
    made.close()


def test_an_amount_that_is_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(QueryError, match="--memory"):
        Opened(tmp_path, memory="much")


def test_a_failure_of_a_source_is_raised_as_it_is(tmp_path: Path) -> None:
    class BrokenError(Exception):
        pass

    def scan(_columns: Sequence[str], _earliest_ns: int | None) -> Iterator[Any]:
        yield pa.record_batch({"number": [1]})
        raise BrokenError

    database = Database({"things": Scanned(pa.schema([("number", pa.int64())]), scan)}, "500MB", tmp_path, "1GB")
    with pytest.raises(BrokenError):
        list(database.answer("SELECT sum(number) FROM things").rows)
    database.close()


def test_columns_of_one_name_are_told_apart(opened: Opened) -> None:
    assert opened.database.answer("SELECT 1 AS a, 2 AS a, 3 AS a_1, 4 AS a").names == ["a", "a_1", "a_1_1", "a_2"]


def test_it_takes_no_more_threads_than_it_has_processors(opened: Opened) -> None:
    assert opened.rows("SELECT current_setting('threads')") == [(len(os.sched_getaffinity(0)),)]
