"""`weir verify`: whether the verdicts in the log are those of the policies of their time."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import click
from rich.text import Text

from enrich.history.moments import moment
from enrich.history.record_question import Outcome
from enrich.runtime.settings import SettingsError
from streams.cli.advice_window import CANNOT_SAY, CannotSayError, end_with
from streams.cli.kafka_options import chosen_cluster, cluster_option, kafka_options, read_settings
from streams.cli.past import Past
from streams.cli.terminal import PipeConsole, printable, say
from streams.cli.verify_shares import (
    MAX_PROCESSES,
    WORTH_A_PROCESS,
    Judgement,
    Request,
    judge_shares,
    split,
    window_of,
)
from streams.cli.verify_text import as_json, lines
from streams.cli.verifying import Sums
from streams.observing.observe import parse_duration, parse_window

DISAGREES: Final = 1
_LATE_MS: Final = 600_000
"""Workers may write a record so long after its packet. Only a window that ends before now is left there: whoever may
write to the topic chooses the times of records, and could hide the rest of a partition behind forged ones."""


@click.command()
@click.option("--since", default="1h", show_default=True, help="Begin of the window: 5m, 2h, 1d ago, or a time.")
@click.option("--until", help="End of the window, in the same forms. [now]")
@click.option("-n", "--namespace", "namespaces", multiple=True, help="Only pods of this namespace. Repeatable.")
@click.option(
    "--delay",
    default="60s",
    show_default=True,
    help="So long a node may have a change after the journal, or half as long before it.",
)
@click.option("--strict", is_flag=True, help="Exit with 3 if some record cannot be judged, or is not read.")
@click.option("--show", "most", type=click.IntRange(0), default=20, show_default=True, help="Findings in a table.")
@click.option("--processes", type=click.IntRange(1, 64), help="Processes that judge. [one a core, up to 4]")
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True)
@cluster_option
@kafka_options
def verify(
    since: str, until: str | None, namespaces: Sequence[str], delay: str, most: int, output: str, *,
    strict: bool, processes: int | None, **given: Any,
) -> None:  # fmt: skip
    """Judge the records of the log again, by the policies of their time, and report those that disagree.

    The records are those on the topic of flows. The journal and the address intervals say what policies and labels were
    at their time. A node has a change of policies some time after it was made: a record agrees if the policies of any
    moment shortly before it do. Times are UTC.

    \b
    Exit 0: all records that can be judged agree. 1: some disagree. 2: the command is wrong.
    3: it cannot say: Kafka cannot be read, or has no record that can be judged.
    """
    try:
        settings, connection = read_settings(given["kafka"], given["prefix"])
        window = parse_window(since, until, datetime.now(UTC))
        delay_ns = _delay(delay)
    except (SettingsError, ValueError) as error:
        raise click.UsageError(str(error)) from error
    topics = settings.topics
    cluster = chosen_cluster(given["cluster"])

    def answer() -> int:
        # Only a window that ends before now is left early: see _LATE_MS.
        read_until_ms = None if until is None or strict else window[1] // 1_000_000 + _LATE_MS
        request = Request(connection, topics, cluster, window, delay_ns, frozenset(namespaces), read_until_ms)
        whole = window_of(request)
        past, found = judge_shares(request, split(whole, processes or _worth(whole.records)))
        sums = found.sums
        notes = list(dict.fromkeys([*past.notes, *found.notes, *_notes(past, found, window)]))
        if output == "json":
            click.echo(json.dumps(as_json(sums, window, notes)))
        else:
            console = PipeConsole(highlight=False)
            for style, line in lines(sums, most):
                console.print(Text(printable(line), style=style), soft_wrap=True)
            say(notes)
        if not sums.judged:
            raise CannotSayError(_nothing(sums, topics.flows.name))
        return exit_code(sums, strict=strict)

    end_with(answer, connection, (topics.journal.name, topics.endpoints.name, topics.flows.name))


def exit_code(sums: Sums, *, strict: bool) -> int:
    """Return the exit code of a result."""
    if sums.outcomes[Outcome.DISAGREES]:
        return DISAGREES
    doubts = sums.outcomes[Outcome.CANNOT_SAY] or sums.unreadable
    return CANNOT_SAY if not sums.judged or (strict and doubts) else 0


def _delay(text: str) -> int:
    try:
        return int(parse_duration(text).total_seconds() * 1e9)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"--delay: {error}") from error


def _worth(records: int) -> int:
    """Return how many processes are worth starting."""
    return min(len(os.sched_getaffinity(0)), MAX_PROCESSES, 1 + records // WORTH_A_PROCESS)


def _notes(past: Past, found: Judgement, window: tuple[int, int]) -> Iterator[str]:
    """Yield what a person must know about the answer."""
    sums = found.sums
    if found.left_early:
        yield (
            f"{found.left_early} partitions were not read to their end: many records in a row came over "
            f"{_LATE_MS // 60_000} minutes after the window; --strict reads all"
        )
    yield (
        f"{sums.read:,} records read, {sums.combinations:,} distinct combinations judged, from {moment(window[0])} to "
        f"{moment(window[1])}"
    )
    if sums.unreadable:
        yield f"{sums.unreadable:,} records cannot be read"
    timeline = past.timeline
    if timeline.begins_ns > window[0]:
        yield f"the journal can answer from {moment(timeline.begins_ns)} on, and not before"
    for gap in timeline.gaps()[1:]:
        if gap.covers(*window):
            yield gap.text


def _nothing(sums: Sums, topic: str) -> str:
    if not sums.read:
        return f"{topic} has no record of this window"
    return "no record of the window can be judged"
