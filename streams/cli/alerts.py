"""`weir alerts`: check a file of alert rules, and run it over records that are past."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, Final, NoReturn

import click
import orjson

from enrich.runtime.process import Exit
from enrich.runtime.settings import SettingsError, load
from streams.alerts.backtest import Rehearsal
from streams.alerts.counting import parse
from streams.alerts.model import Alerts
from streams.alerts.read import builtin, in_force, read
from streams.cli.observe import parse_since
from streams.config.yaml_file import FileError
from streams.kafka.connection import ReadError
from streams.kafka.reading import read_committed
from streams.kafka.topics import partitions_of
from streams.settings import Settings

_PATH: Final = click.Path(dir_okay=False, path_type=Path)


@click.group()
def alerts() -> None:
    """Check a file of alert rules, or run it over records that are past."""


@alerts.command()
@click.argument("file", type=_PATH)
def check(file: Path) -> None:
    """Check FILE; every mistake with line and field; and say which rules are in force with it.

    \b
    Exit 0: good. 2: not.
    """
    found = _read(file)
    whole = in_force(found)
    own = {rule.name for rule in found.rules}
    click.echo(f"{file}: good: {len(whole.rules)} rules in force, {len(whole.outputs)} outputs")
    for rule in whole.rules:
        replaced = " (in place of the built-in one)" if rule.name in {one.name for one in builtin()} & own else ""
        click.echo(f"  {rule.name}: {rule.severity}{replaced if rule.name in own else ' (built in)'}")
    for name in found.disable:
        click.echo(f"  {name}: switched off")


@alerts.command()
@click.argument("rules", type=_PATH, required=False)
@click.option("--records", type=_PATH, help="A file of records, one JSON object a line [the standard input].")
@click.option("--kafka", "from_kafka", is_flag=True, help="Kafka's past: <prefix>.flows.denied and <prefix>.status.")
@click.option("--since", default="1h", show_default=True, help="Of --kafka: 90s, 5m, 2h, 3d ago, or a time.")
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
def test(rules: Path | None, records: Path | None, from_kafka: bool, since: str, output: str) -> None:
    """Run the rules that are in force with RULES over records, and say when they would have fired and resolved.

    Without RULES: the built-in ones. Records are as on kubeweir.flows.denied and from `weir observe -o json`, and
    losses as on kubeweir.status; in any order. Rules of the kind after_change are left out: no record tells of a
    change.

    \b
    Exit 0: it ran. 2: RULES, or a record, is wrong; or Kafka cannot be read.
    """
    if from_kafka and records:
        raise click.UsageError("--kafka and --records exclude each other")
    whole = in_force(Alerts(version=1) if rules is None else _read(rules))
    chosen = [rule for rule in whole.rules if rule.after_change is None]
    rehearsal = Rehearsal(chosen, 100_000)
    for number, line in enumerate(_kafka(since) if from_kafka else _lines(records), 1):
        try:
            rehearsal.add(parse(line))
        except (ValueError, AttributeError) as error:
            _wrong(f"line {number} is no record: {error}")
    try:
        fired = _show(rehearsal, output)
    except BrokenPipeError:
        # Nobody reads it any more; Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(Exit.OK)
    left_out = ", ".join(rule.name for rule in whole.rules if rule.after_change is not None)
    click.echo(f"{rehearsal.records} records of denies and losses, {fired} alerts, {len(chosen)} rules", err=True)
    if left_out:
        click.echo(f"left out, for records tell of no change: {left_out}", err=True)
    for (rule, what), count in sorted(rehearsal.happened.items()):
        click.echo(f"{rule}: {what.replace('_', ' ')}: {count}", err=True)


def _show(rehearsal: Rehearsal, output: str) -> int:
    fired = 0
    for record in rehearsal.run():
        fired += record["status"] == "firing"
        if output == "json":
            click.echo(orjson.dumps(record))
        else:
            click.echo(line_of(record))
    return fired


def line_of(record: dict[str, Any]) -> str:
    """An alert's change of state, for people."""
    group = ", ".join(f"{name}={text}" for name, text in record["group"].items() if text)
    summary = record["annotations"].get("summary", f"{record['count']}")
    told = summary if record["status"] == "firing" else f"since {record['startsAt']}"
    return f"{record['timestamp']}  {record['status']:8}  {record['rule']}  {group}  {told}"


def _read(file: Path) -> Alerts:
    try:
        return read(file.read_bytes(), str(file))
    except OSError as error:
        _wrong(f"{file}: {error.strerror}")
    except FileError as error:
        _wrong(str(error))


def _wrong(text: str) -> NoReturn:
    click.echo(text, err=True)
    sys.exit(Exit.USAGE)


def _lines(file: Path | None) -> Iterator[bytes]:
    if file is None:
        yield from _filled(sys.stdin.buffer)
        return
    try:
        with file.open("rb") as stream:
            yield from _filled(stream)
    except OSError as error:
        _wrong(f"{file}: {error.strerror}")


def _filled(stream: BinaryIO) -> Iterator[bytes]:
    return (line for line in stream if line.strip())


def _kafka(since: str) -> Iterator[bytes]:
    try:
        settings = load(Settings, os.environ)
        connection = settings.connection()
        start = int(parse_since(since, datetime.now(UTC)).timestamp() * 1000)
    except (SettingsError, ValueError) as error:
        raise click.UsageError(str(error)) from error
    try:
        names = [settings.topics.denied.name, settings.topics.status.name]
        for topic, partitions in partitions_of(connection, names).items():
            if not partitions:
                _wrong(f"weir: there is no topic {topic}: has weir-streams run with this prefix?")
            for record in read_committed(connection, topic, range(partitions), start):
                yield record.value
    except ReadError as error:
        _wrong(f"weir: {error}")
