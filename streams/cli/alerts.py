"""The command `weir alerts`: check a file of alert rules, and backtest it over records of the past."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, Final, NoReturn

import click
import orjson

from enrich.runtime.console import leave_stdout
from enrich.runtime.process import Exit
from enrich.runtime.settings import SettingsError, load
from enrich.wire.whose import cluster_named, is_foreign
from streams.alerts.backtest import Backtest
from streams.alerts.model import Alerts
from streams.alerts.read import builtin, in_force, read
from streams.cli.kafka_failure import end, needs_to_read
from streams.config.yaml_file import FileError
from streams.kafka.connection import NoTopicError, ReadError, checked
from streams.kafka.reading import read_committed
from streams.kafka.topics import partitions_of
from streams.observing.observe import parse_since, unix_ms
from streams.settings import EVERY_CLUSTER, Settings

_PATH: Final = click.Path(dir_okay=False, path_type=Path)
_MAX_GROUPS: Final = 100_000


@click.group()
def alerts() -> None:
    """Check a file of alert rules, or test it on records of the past."""


@alerts.command()
@click.argument("file", type=_PATH)
def check(file: Path) -> None:
    """Check FILE, and list the rules that are in force with it.

    Every mistake is reported with its line and field.

    \b
    Exit 0: the file is valid. 2: it is not, or cannot be read.
    """
    found = _read(file)
    whole = in_force(found)
    own = {rule.name for rule in found.rules}
    click.echo(f"{file}: valid: {len(whole.rules)} rules in force, {len(whole.outputs)} outputs")
    for rule in whole.rules:
        replaces = " (replaces the built-in rule)" if rule.name in {one.name for one in builtin()} & own else ""
        click.echo(f"  {rule.name}: {rule.severity}{replaces if rule.name in own else ' (built-in)'}")
    for name in found.disable:
        click.echo(f"  {name}: disabled")


@alerts.command()
@click.argument("rules", type=_PATH, required=False)
@click.option("--records", type=_PATH, help="Read records from this file, one JSON object per line [standard input].")
@click.option(
    "--kafka", "from_kafka", is_flag=True, help="Read the topics <prefix>.flows.denied and <prefix>.status instead."
)
@click.option(
    "--since", default="1h", show_default=True, help="With --kafka, where to begin: 90s, 5m, 2h, 3d ago, or a time."
)
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
def test(rules: Path | None, records: Path | None, from_kafka: bool, since: str, output: str) -> None:
    """Backtest: run rules over records of the past, and show when alerts would have fired and been resolved.

    The rules are those of RULES and the built-in ones that it leaves in force; without RULES only the built-in ones.
    Records are flow records, as on kubeweir.flows.denied or from `weir observe -o json`, and status records, as on
    kubeweir.status; their order does not matter. Rules of the kind after_change are skipped, because records do not
    contain changes of policies. With WEIR_CLUSTER, records of other clusters in Kafka are left out.

    \b
    Exit 0: the backtest ran. 1: Kafka cannot be read. 2: RULES or a record is invalid.
    """
    if from_kafka and records:
        raise click.UsageError("--kafka and --records cannot be used together")
    whole = in_force(Alerts(version=1) if rules is None else _read(rules))
    chosen = [rule for rule in whole.rules if rule.after_change is None]
    backtest = Backtest(chosen, _MAX_GROUPS)
    for number, line in enumerate(_kafka(since) if from_kafka else _lines(records), 1):
        try:
            backtest.add(line)
        except ValueError as error:
            _fail(f"record {number} is invalid: {error}")
    try:
        fired = _show(backtest, output)
    except BrokenPipeError:
        leave_stdout()
        sys.exit(Exit.OK)
    skipped = ", ".join(rule.name for rule in whole.rules if rule.after_change is not None)
    click.echo(f"{len(chosen)} rules over {backtest.records} records: {fired} alerts fired", err=True)
    if skipped:
        click.echo(f"skipped, because records do not contain changes of policies: {skipped}", err=True)
    for (rule, event), count in sorted(backtest.events.items()):
        click.echo(f"{rule}: {event.replace('_', ' ')}: {count}", err=True)


def _show(backtest: Backtest, output: str) -> int:
    fired = 0
    for record in backtest.run():
        fired += record["status"] == "firing"
        if output == "json":
            click.echo(orjson.dumps(record))
        else:
            click.echo(line_of(record))
    return fired


def line_of(record: dict[str, Any]) -> str:
    """Return an alert record in one line, for people."""
    group = ", ".join(f"{name}={text}" for name, text in record["group"].items() if text)
    summary = record["annotations"].get("summary", f"{record['count']}")
    text = summary if record["status"] == "firing" else f"since {record['startsAt']}"
    return f"{record['timestamp']}  {record['status']:8}  {record['rule']}  {group}  {text}"


def _read(file: Path) -> Alerts:
    try:
        return read(file.read_bytes(), str(file))
    except OSError as error:
        _fail(f"{file}: {error.strerror}")
    except FileError as error:
        _fail(str(error))


def _fail(text: str) -> NoReturn:
    click.echo(text, err=True)
    sys.exit(Exit.USAGE)


def _lines(file: Path | None) -> Iterator[bytes]:
    if file is None:
        yield from _without_blanks(sys.stdin.buffer)
        return
    try:
        with file.open("rb") as stream:
            yield from _without_blanks(stream)
    except OSError as error:
        _fail(f"{file}: {error.strerror}")


def _without_blanks(stream: BinaryIO) -> Iterator[bytes]:
    return (line for line in stream if line.strip())


def _kafka(since: str) -> Iterator[bytes]:
    try:
        settings = load(Settings, os.environ)
        connection = checked(settings.connection())
        start = unix_ms(parse_since(since, datetime.now(UTC)))
    except (SettingsError, ValueError) as error:
        raise click.UsageError(str(error)) from error
    names = [settings.topics.denied.name, settings.topics.status.name]
    try:
        for topic, partitions in partitions_of(connection, names).items():
            if not partitions:
                raise NoTopicError(f"there is no topic {topic}: has weir-streams run with this WEIR_TOPIC_PREFIX?")
            for record in read_committed(connection, topic, range(partitions), start):
                if settings.cluster == EVERY_CLUSTER or not is_foreign(cluster_named(record.value), settings.cluster):
                    yield record.value
    except ReadError as error:
        end(error, connection, needs_to_read(*names))
