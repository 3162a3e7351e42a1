"""`weir sql`: a query in SQL about what Kafka keeps of a window of time."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
import tempfile
import traceback
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import click

from enrich.history.pair_hours import TooManyPairsError
from enrich.runtime.console import leave_stdout
from enrich.runtime.settings import SettingsError
from enrich.wire.topics import Topics
from streams.cli.advice_window import CANNOT_SAY, CannotSayError
from streams.cli.kafka_failure import needs_to_read, say_why
from streams.cli.kafka_options import chosen_cluster, cluster_option, kafka_options, read_settings
from streams.cli.sql.columns import TABLES
from streams.cli.terminal import printable, say, table_lines
from streams.kafka.connection import Connection, ReadError
from streams.observing.observe import parse_duration, parse_window

_Window = tuple[Topics, int, int, int | None, str]
"""The fields of :class:`streams.cli.sql.opened.Sources` but the connection."""
_READS_ALL: Final = (
    "all verdicts of the window were read: a condition on timestamp shortens that only if it compares with a fixed "
    "time in UTC, such as timestamp >= '2026-11-30 09:00'; --since and --until always do"
)
_PACKAGES: Final = ("duckdb", "pyarrow")
_OUTPUTS: Final = ("table", "json", "csv")
_DISK: Final = "4GB"
_MAX_QUERY_BYTES: Final = 1 << 20
_FIELD_TYPES: Final = re.compile(r"(\b[a-z]+) [A-Z]+")
"""The types of fields inside a type, which are too much for a table."""


@click.command()
@click.argument("query", required=False)
@click.option("--since", default="1d", show_default=True, help="Begin of the window: 5m, 2h, 7d ago, or a time.")
@click.option("--until", help="End of the window, in the same forms. [now]")
@click.option("--late", default="15m", show_default=True,
              help="How long after --until verdicts of that time may have come to Kafka.")  # fmt: skip
@click.option("-o", "--output", type=click.Choice(_OUTPUTS), default="table", show_default=True,
              help="A table, a JSON object for each row, or CSV.")  # fmt: skip
@click.option("--schema", is_flag=True, help="Show the tables and their columns.")
@click.option("--memory", default="1GB", show_default=True, help="How much memory the query may take.")
@cluster_option
@kafka_options
def sql(query: str | None, output: str, schema: bool, **given: Any) -> None:
    """Answer a query in SQL (DuckDB's) about verdicts, pairs, policies and profiles of a window of time.

    QUERY is one SELECT; - reads it from standard input. It can read these tables and nothing else: no file, no network.
    What it does not ask for is not decoded. docs/sql.md has examples. Times are UTC.

    \b
    Exit 0: the query was answered. 2: the query or the command is wrong. 3: it cannot say: Kafka cannot be read, or has
    nothing of this window, or the query needs more memory.
    """
    if schema:
        _show_schema(output)
        return
    if not query:
        raise click.UsageError("no query: weir sql 'SELECT ...', or weir sql --schema for the tables")
    if missing := [name for name in _PACKAGES if importlib.util.find_spec(name) is None]:
        raise click.UsageError(
            f"weir sql needs the packages duckdb and pyarrow ({' and '.join(missing)} missing): "
            "pip install '.[sql]' in a clone, or 'kubeweir-VERSION-py3-none-any.whl[sql]'"
        )
    try:
        text = click.get_text_stream("stdin").read(_MAX_QUERY_BYTES) if query == "-" else query
    except UnicodeDecodeError as error:
        raise click.UsageError(f"the query is not text in UTF-8: {error}") from error
    try:
        settings, connection = read_settings(given["kafka"], given["prefix"])
        span = parse_window(given["since"], given["until"], datetime.now(UTC))
        late_ns = int(parse_duration(given["late"]) / timedelta(microseconds=1)) * 1_000
    except (SettingsError, ValueError, OverflowError) as error:
        raise click.UsageError(str(error)) from error
    window = settings.topics, *span, None if given["until"] is None else late_ns, chosen_cluster(given["cluster"])
    sys.exit(_run(text, output, connection, window, given["memory"]))


def _run(query: str, output: str, connection: Connection, window: _Window, memory: str) -> int:
    """Answer the query, and return the exit code. A failure never exits with 1, which means nothing here."""
    # These import pyarrow and DuckDB, an extra that takes a while.
    from streams.cli.sql.database import Database, NoAnswerError, QueryError  # noqa: PLC0415
    from streams.cli.sql.interrupting import interrupting  # noqa: PLC0415
    from streams.cli.sql.memory import bounded_memory  # noqa: PLC0415
    from streams.cli.sql.opened import Sources  # noqa: PLC0415
    from streams.cli.sql.printing import OUTPUTS  # noqa: PLC0415

    topics = window[0]
    sources = Sources(connection, *window)
    try:
        with tempfile.TemporaryDirectory(prefix="weir-sql-", ignore_cleanup_errors=True) as folder:
            database = Database(sources.tables(), memory, Path(folder), _DISK)
            try:
                with interrupting(database.interrupt), bounded_memory(database.memory_bytes):
                    OUTPUTS[output](database.answer(query), sys.stdout)
                    sys.stdout.flush()
            finally:
                database.close()
    except QueryError as error:
        for line in str(error).splitlines():
            click.echo(f"weir: {printable(line)}", err=True)
        return 2
    except ReadError as error:
        say_why(error, connection, needs_to_read(topics.raw.name, topics.pairs.name, topics.journal.name))
    except (CannotSayError, NoAnswerError, TooManyPairsError) as error:
        click.echo(f"weir: cannot say: {printable(str(error))}", err=True)
    except MemoryError:
        click.echo("weir: cannot say: the query needs more memory than --memory gives it", err=True)
    except BrokenPipeError:
        leave_stdout()
    except OSError as error:
        click.echo(f"weir: the answer cannot be written: {printable(str(error))}", err=True)
    except Exception:
        traceback.print_exc()
    else:
        say([*sources.notes(), *([_READS_ALL] if database.compares_time and sources.reads_all else [])])
        return 0
    return CANNOT_SAY


def _show_schema(output: str) -> None:
    """Print the tables and their columns."""
    rows = [(table, column) for table, described in TABLES.items() for column in described.columns]
    if output == "json":
        for table, column in rows:
            click.echo(json.dumps({"table": table, **column._asdict()}))
        return
    if output == "csv":
        raise click.UsageError("--schema is shown with -o table or -o json")
    for line in _schema_lines():
        click.echo(line)


def _schema_lines() -> Iterator[str]:
    for place, (table, described) in enumerate(TABLES.items()):
        yield from ["", f"{table}: {described.about}"] if place else [f"{table}: {described.about}"]
        cells = [(one.name, _FIELD_TYPES.sub(r"\1", one.type), one.about) for one in described.columns]
        yield from (f"  {line}" for line in table_lines(cells))
