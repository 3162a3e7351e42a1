"""`weir sql` as people use it: its forms of an answer, what it says is wrong, and a machine without the extra."""

from __future__ import annotations

import csv
import importlib.util
import io
import json
import resource
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from click.testing import CliRunner, Result

from streams.cli.main import command
from streams.cli.sql.columns import TABLES
from streams.cli.sql.database import QueryResult
from streams.cli.sql.opened import Sources
from streams.cli.sql.printing import write_csv

QUERY = """SELECT 1 AS one, 'a,b' AS text, TIMESTAMP '2026-11-29 10:00:00.5' AS at, NULL AS nothing, [1, 2] AS list,
           {'k': 'v'} AS struct, 1.50 AS amount, sum(18446744073709551615::UBIGINT) AS large, 'nan'::DOUBLE AS nan,
           '\x1b[31m' AS red"""


def run(*arguments: str, **given: Any) -> Result:
    return CliRunner().invoke(command, ["sql", *arguments], **given)


def test_json_has_an_object_for_each_row() -> None:
    done = run("-o", "json", QUERY)
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout) == {
        "one": 1, "text": "a,b", "at": "2026-11-29T10:00:00.500000Z", "nothing": None, "list": [1, 2],
        "struct": {"k": "v"}, "amount": 1.5, "large": 18446744073709551615, "nan": None, "red": "\x1b[31m",
    }  # fmt: skip


def test_csv_has_headings_and_quotes_what_needs_it() -> None:
    done = run("-o", "csv", QUERY)
    headings, row = csv.reader(io.StringIO(done.stdout))
    assert headings[:4] == ["one", "text", "at", "nothing"]
    assert row[:6] == ["1", "a,b", "2026-11-29T10:00:00.500000Z", "", "[1,2]", '{"k":"v"}']


def test_csv_for_a_terminal_obeys_no_control_characters() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    for out, text in ((Terminal(), "\\x1b[31m\n\\x1b\n"), (io.StringIO(), "\x1b[31m\n\x1b\n")):
        write_csv(QueryResult(["\x1b[31m"], ["VARCHAR"], iter([("\x1b",)])), out)
        assert out.getvalue() == text


def test_a_table_is_aligned_and_obeys_no_control_characters() -> None:
    done = run("SELECT range AS number, repeat('x', range::INT) AS text, '\x1b[31m' AS red FROM range(8, 11)")
    assert done.stdout.splitlines() == [
        "number  text        red",
        r"     8  xxxxxxxx    \x1b[31m",
        r"     9  xxxxxxxxx   \x1b[31m",
        r"    10  xxxxxxxxxx  \x1b[31m",
    ]


def test_a_long_answer_has_all_rows() -> None:
    assert len(run("SELECT range FROM range(25000) ORDER BY range").stdout.splitlines()) == 25_001


def test_a_query_may_come_from_standard_input() -> None:
    assert run("-", "-o", "json", input="SELECT 1 AS one").stdout == '{"one":1}\n'


def test_the_schema_names_every_column() -> None:
    text = run("--schema").stdout
    for table, described in TABLES.items():
        assert f"{table}: {described.about}" in text
        for column in described.columns:
            assert f"  {column.name} " in text
    found = [json.loads(line) for line in run("--schema", "-o", "json").stdout.splitlines()]
    assert {(one["table"], one["name"]) for one in found} == {
        (table, column.name) for table, described in TABLES.items() for column in described.columns
    }


@pytest.mark.parametrize("table", TABLES)
def test_the_tables_have_the_columns_and_types_that_the_schema_says(table: str) -> None:
    done = run("-o", "json", f"DESCRIBE {table}")
    found = [json.loads(line) for line in done.stdout.splitlines()]
    types = {one["column_name"]: one["column_type"].replace('"', "") for one in found}
    assert types == {column.name: column.type for column in TABLES[table].columns}


@pytest.mark.parametrize(
    "arguments",
    [(), ("",), ("SELEC 1",), ("SELECT 1", "--since", "x"), ("SELECT 1", "--until", "9d"), ("SELECT 1", "-o", "xml"),
     ("SELECT 1", "--memory", "much"), ("--schema", "-o", "csv")],
)  # fmt: skip
def test_what_is_wrong_exits_with_2(arguments: tuple[str, ...]) -> None:
    done = run(*arguments)
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr


def test_a_query_that_is_not_text_is_refused() -> None:
    done = run("-", input=b"SELECT \xff")
    assert (done.exit_code, done.stdout) == (2, "")
    assert "not text in UTF-8" in done.stderr


@pytest.mark.parametrize("query", ["SELECT len(range(400000000))", "SELECT len(repeat('x', 2000000000))"])
def test_memory_that_duckdb_does_not_bound_is_bounded(query: str) -> None:
    before = resource.getrlimit(resource.RLIMIT_AS)
    done = run(query, "--memory", "30MB")
    assert (done.exit_code, done.stdout) == (3, "")
    assert "cannot say: the query needs more memory than --memory gives it" in done.stderr
    assert resource.getrlimit(resource.RLIMIT_AS) == before


def test_memory_that_a_table_takes_is_bounded_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def scan(*_: Any) -> Iterator[Any]:
        yield bytearray(2 << 30)

    monkeypatch.setattr(Sources, "_scan_verdicts", scan)
    done = run("SELECT count(*) FROM verdicts", "--memory", "30MB")
    assert done.exit_code == 3
    assert done.stderr == "weir: cannot say: the query needs more memory than --memory gives it\n"


def test_what_is_wrong_with_a_query_is_what_duckdb_says() -> None:
    assert 'Referenced column "nothing" not found' in run("SELECT nothing FROM verdicts").stderr


@pytest.mark.parametrize("missing", ["duckdb", "pyarrow"])
def test_without_the_extra_it_says_how_to_install_it(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == missing else find(name))
    done = run("SELECT 1")
    assert done.exit_code == 2
    assert f"({missing} missing): pip install '.[sql]' in a clone" in done.stderr
    assert run("--schema").exit_code == 0


def test_no_other_command_imports_the_extra() -> None:
    program = (
        "import sys; from click.testing import CliRunner; from streams.cli.main import command\n"
        "for name in command.list_commands(None): CliRunner().invoke(command, [name, '--help'])\n"
        "CliRunner().invoke(command, ['sql', '--schema'])\n"
        "print([name for name in ('duckdb', 'pyarrow') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
