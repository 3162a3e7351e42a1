"""`weir top`: who has the most flows right now, and the most denied ones."""

from __future__ import annotations

import sys
from typing import Any, Final

import click

from enrich.runtime.console import leave_stdout
from enrich.runtime.process import Exit
from enrich.runtime.settings import SettingsError
from streams.cli.columns import read_columns
from streams.cli.conditions import conditions, without_not
from streams.cli.kafka_failure import end, needs_to_read
from streams.cli.kafka_options import kafka_options, read_settings
from streams.cli.negation import NegatingCommand, split
from streams.cli.number import Number
from streams.cli.terminal import PipeConsole, say
from streams.cli.top import Top, json_lines, plain_lines, screen_of
from streams.kafka.connection import ReadError
from streams.kafka.lasting_transactions import unreadable_yet
from streams.kafka.reading import TopicReader
from streams.observing.filter_options import read_choice
from streams.observing.narrowing import narrow

_ANSWER_S: Final = 2.0
"""How long an answer of Kafka's is waited for before it is said to be away."""


@click.command(cls=NegatingCommand)
@click.option(
    "--by",
    default="workload,verdict",
    show_default=True,
    metavar="FIELD,...",
    help="Group by namespace, workload, policy, port, verdict, or other fields.",
)
@conditions
@click.option("--rows", type=click.IntRange(1, 1000), default=30, show_default=True, help="Groups that are shown.")
@click.option("--every", type=Number(0.2, 60), default=2.0, show_default=True, help="Seconds between two snapshots.")
@click.option("--count", type=click.IntRange(1), help="End after so many snapshots.")
@click.option(
    "-o",
    "--output",
    type=click.Choice(["auto", "lines", "json"]),
    default="auto",
    show_default=True,
    help="A screen in a terminal, else lines; or one JSON object for each snapshot.",
)
@kafka_options
def top(by: str, rows: int, every: float, count: int | None, output: str, **options: Any) -> None:
    """Show who has the most flows right now: records per second, denied ones, and bars of the last 30 snapshots.

    The conditions are those of weir observe, and --not leaves out what fits the one behind it. Records count when they
    arrive. While Kafka cannot be reached, the screen says since when, and goes on afterwards. Ctrl-C ends it.

    \b
    Exit 0: --count snapshots were shown. 1: Kafka cannot be read. 2: the command is wrong.
    """
    try:
        settings, connection = read_settings(options.pop("kafka"), options.pop("prefix"))
        columns = read_columns("--by", by, counted=True)
        choice = read_choice(*split(without_not(options)))
    except (SettingsError, ValueError) as error:
        raise click.UsageError(str(error)) from error
    try:
        reader = TopicReader(connection, settings.topics.flows.name, timeout_s=_ANSWER_S)
        narrow(reader, choice.subject_keys(), None)
        say(unreadable_yet(connection, settings.topics.flows.name))
        _run(Top(reader, choice, columns, rows, every), connection["bootstrap.servers"], output, count)
    except ReadError as error:
        end(error, connection, needs_to_read(settings.topics.flows.name))
    except BrokenPipeError:
        leave_stdout()
        sys.exit(Exit.OK)
    finally:
        for problem in choice.problems():
            click.echo(f"weir: {problem}", err=True)


def _run(running: Top, servers: str, output: str, count: int | None) -> None:
    console = PipeConsole(highlight=False)
    if output == "auto" and console.is_terminal:
        # The screen is given back as it was, however this ends.
        with console.screen() as screen:
            running.run(screen_of(screen, console, servers), count)
    elif output == "json":
        running.run(json_lines(_write), count)
    else:
        running.run(plain_lines(lambda line: _write(line.encode()), servers), count)


def _write(line: bytes) -> None:
    sys.stdout.buffer.write(line + b"\n")
    sys.stdout.buffer.flush()
