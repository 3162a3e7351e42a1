"""DuckDB, locked down, with the tables of one window.

A query may come from somebody else: a dashboard, a chat. So it can read the tables, and nothing else: one statement
that selects, no file, no network, no extension, no Python variable, no change of a setting, and no table function but
those that only compute. Its memory, and what it may write beside it where that does not suffice, have bounds.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import duckdb

from streams.cli.sql.arrow import Scanned

_FETCHED: Final = 1_000
_MAX_LENGTH: Final = 100_000
_TABLE_FUNCTIONS: Final = frozenset(
    {"generate_series", "json_each", "json_tree", "range", "repeat", "repeat_row", "unnest"}
)
"""Table functions that compute something of their arguments. Others read files, run text as a query, or tell of the
process."""
_SETTINGS: Final = {
    "enable_external_access": "false",
    "python_enable_replacements": "false",
    "autoload_known_extensions": "false",
    "autoinstall_known_extensions": "false",
    "allow_community_extensions": "false",
    "allow_unsigned_extensions": "false",
    "preserve_insertion_order": "false",
}
_UNITS: Final = {"bytes": 0, "byte": 0, "KiB": 10, "MiB": 20, "GiB": 30, "TiB": 40}
_NO_ANSWER: Final = (
    duckdb.FatalException,
    duckdb.InternalException,
    duckdb.IOException,
    duckdb.OutOfMemoryException,
)


class QueryError(ValueError):
    """The query is wrong, or not one that may be asked. The message says why."""


class NoAnswerError(RuntimeError):
    """The query is right, and cannot be answered, for lack of memory for example."""


class QueryResult(NamedTuple):
    """The columns of an answer, and its rows as they are computed."""

    names: Sequence[str]
    types: Sequence[str]
    rows: Iterator[tuple[Any, ...]]


class Database:
    """A database in memory that has some tables, and can only be read."""

    def __init__(self, tables: Mapping[str, Scanned], memory: str, folder: Path, disk: str) -> None:
        """``memory``: how much the query may take, as ``1GB``; ``folder`` and ``disk``: where it may put what does not
        fit, and how much of it. Raises QueryError if an amount is wrong."""
        self._tables = tables
        settings = {**_SETTINGS, "memory_limit": memory, "temp_directory": str(folder), "max_temp_directory_size": disk}
        # It is never made; where it is by default names the user.
        settings["secret_directory"] = str(folder / "secrets")
        try:
            self._connection = duckdb.connect(":memory:", config={**settings, "threads": str(_processors())})
            row = self._connection.execute("SELECT current_setting('memory_limit')").fetchone()
        except duckdb.Error as error:
            raise QueryError(f"--memory: {error}") from error
        self.memory_bytes = _bytes(str(row[0]) if row else "")
        """How much memory the query may take."""
        self.compares_time = False
        """Whether a condition of the query is about a time of verdicts."""
        self._connection.execute("SET TimeZone = 'UTC'")
        for name, table in tables.items():
            self._connection.register(name, table)
        # From here on nothing can be set, and this cannot be taken back.
        self._connection.execute("SET lock_configuration = true")

    def answer(self, query: str) -> QueryResult:
        """Begin to answer a query. Reading the rows raises what this raises, too: QueryError, NoAnswerError, and what
        the reading of a table raised."""
        self._check(query)
        try:
            self._connection.execute(query)
        except duckdb.Error as error:
            raise self._named(error) from error
        described = self._connection.description or ()
        names = _distinct([one[0] for one in described])
        return QueryResult(names, [str(one[1]) for one in described], self._rows())

    def interrupt(self) -> None:
        """End the query that runs, from another thread. Its rows raise KeyboardInterrupt."""
        self._connection.interrupt()

    def close(self) -> None:
        """End the query, if one still runs."""
        self._connection.close()

    def _rows(self) -> Iterator[tuple[Any, ...]]:
        try:
            while found := self._connection.fetchmany(_FETCHED):
                yield from found
        except duckdb.Error as error:
            raise self._named(error) from error
        except (OverflowError, ValueError) as error:
            # DuckDB has intervals and times that Python does not.
            raise QueryError(f"the answer has a value that cannot be shown: {error}; cast it to VARCHAR") from error

    def _check(self, query: str) -> None:
        """Raise QueryError unless a query is one statement that selects, of functions that only compute."""
        if len(query) > _MAX_LENGTH:
            raise QueryError(f"the query is longer than {_MAX_LENGTH:,} characters")
        if not _is_text(query):
            raise QueryError("the query is not text in UTF-8")
        try:
            statements = self._connection.extract_statements(query)
        except duckdb.Error as error:
            raise QueryError(str(error)) from error
        if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
            raise QueryError(
                "a query is one SELECT (or FROM, WITH, VALUES, DESCRIBE, SUMMARIZE) statement: weir sql only reads. "
                "PIVOT needs its values, and FROM before it: FROM (PIVOT verdicts ON protocol IN ('tcp', 'udp') ...)"
            )
        parsed = self._parsed(query)
        self.compares_time = any("timestamp" in one for one in _columns_of_conditions(parsed))
        for name in _table_functions(parsed):
            if name.lower() not in _TABLE_FUNCTIONS:
                raise QueryError(
                    f"{name}() may not be used in FROM: weir sql reads its own tables only, and no files. There are "
                    f"{', '.join(self._tables)}, and {', '.join(sorted(_TABLE_FUNCTIONS))}"
                )

    def _parsed(self, query: str) -> Any:
        """Return a query as DuckDB parses it."""
        try:
            row = self._connection.execute("SELECT json_serialize_sql($1::VARCHAR)", [query]).fetchone()
            parsed = json.loads(row[0]) if row else {"error": True}
        except duckdb.Error as error:
            raise QueryError(str(error)) from error
        except RecursionError as error:
            raise QueryError("the query is nested too deeply") from error
        if parsed["error"]:
            raise QueryError(parsed.get("error_message", "the query cannot be parsed"))
        return parsed

    def _named(self, error: duckdb.Error) -> BaseException:
        """Return what is to be raised for an error of DuckDB: what a table raised while it was read counts more."""
        for table in self._tables.values():
            if table.failure is not None:
                return table.failure
        if isinstance(error, duckdb.InterruptException):
            return KeyboardInterrupt()
        if isinstance(error, duckdb.OutOfMemoryException):
            # Its further lines advise settings that a query may not change.
            return NoAnswerError(f"the query needs more memory than --memory gives it: {str(error).splitlines()[0]}")
        return (NoAnswerError if isinstance(error, _NO_ANSWER) else QueryError)(str(error))


def _table_functions(parsed: Any) -> Iterator[str]:
    """Yield the names of the table functions in a parsed query."""
    waiting = [parsed]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            if one.get("type") == "TABLE_FUNCTION":
                function = one.get("function")
                yield str(function.get("function_name")) if isinstance(function, dict) else "a table function"
            waiting += one.values()
        elif isinstance(one, list):
            waiting += one


def _columns_of_conditions(parsed: Any) -> Iterator[str]:
    """Yield the names of the columns in the WHERE clauses of a parsed query."""
    waiting = [(parsed, False)]
    while waiting:
        one, is_condition = waiting.pop()
        if isinstance(one, dict):
            if is_condition and one.get("class") == "COLUMN_REF":
                yield from (str(name) for name in one.get("column_names", ())[-1:])
            waiting += [(value, is_condition or name == "where_clause") for name, value in one.items()]
        elif isinstance(one, list):
            waiting += [(value, is_condition) for value in one]


def _is_text(query: str) -> bool:
    try:
        query.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in query


def _distinct(names: Sequence[str]) -> list[str]:
    """Return the names of columns, with a number behind those that were there before: a JSON object has each once."""
    found: list[str] = []
    for name in names:
        number = 0
        while (one := f"{name}_{number}" if number else name) in found:
            number += 1
        found.append(one)
    return found


def _bytes(text: str) -> int:
    """Return an amount of memory as DuckDB writes it, such as ``953.6 MiB``."""
    amount, _, unit = text.partition(" ")
    return int(float(amount) * (1 << _UNITS[unit]))


def _processors() -> int:
    return len(os.sched_getaffinity(0))
