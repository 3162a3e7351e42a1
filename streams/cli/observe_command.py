"""`weir observe`: show the flows that fit some conditions, past ones and as they arrive, or count them."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import click

from enrich.runtime.console import leave_stdout
from enrich.runtime.process import Exit
from enrich.runtime.settings import SettingsError
from streams.cli.columns import Read, read_columns
from streams.cli.conditions import conditions, without_not
from streams.cli.counts import Counts
from streams.cli.kafka_failure import end, needs_to_read
from streams.cli.kafka_options import kafka_options, read_settings
from streams.cli.limited import LimitedLines
from streams.cli.negation import NegatingCommand, split
from streams.cli.output import OUTPUTS, writer_of
from streams.cli.terminal import PipeConsole, progress_removed, say, show_progress
from streams.kafka.connection import Connection, NoTopicError, ReadError
from streams.kafka.lasting_transactions import unreadable_yet
from streams.kafka.ranges import ends_of
from streams.kafka.reading import TopicReader
from streams.observing.choice import Choice
from streams.observing.filter_options import read_choice
from streams.observing.narrowing import narrow
from streams.observing.observe import (
    Shown,
    Window,
    follow,
    last_of_all,
    parse_duration,
    parse_since,
    since_matching,
    since_rows,
    unix_ms,
)
from streams.observing.record_search import Span, search
from streams.settings import Settings

_LAST: Final = 20
_COUNTED: Final = timedelta(hours=1)
"""What --by counts if it is not said."""


@dataclass(frozen=True)
class _Request:
    """What is to be shown, and how."""

    choice: Choice
    window: Window | None
    last: int | None
    following: bool
    output: str
    fields: Mapping[str, Read] | None
    by: Mapping[str, Read] | None


@click.command(cls=NegatingCommand)
@conditions
@click.option("--except-reason", "except_reasons", multiple=True, help="The same as --not --reason.")
@click.option("-o", "--output", type=click.Choice(OUTPUTS), default="table", show_default=True,
              help="A table, a wide or a compact one, or the records as they are on Kafka, one on a line.")  # fmt: skip
@click.option("--fields", metavar="FIELD,...", help="Show these fields only: time,src,dest,port,src.labels.app.")
@click.option("--by", metavar="FIELD,...", help="Count the records by these fields: src.workload,dest.workload,port.")
@click.option("--since", help="Show flows from this time on: 90s, 5m, 2h, 3d ago, or an RFC 3339 time.")
@click.option("--until", help="Show flows before this time, like --since, which it needs.")
@click.option("--late", default="15m", show_default=True,
              help="How long after --until records of that time may have come to Kafka.")  # fmt: skip
@click.option(
    "--last", type=click.IntRange(0), help=f"Show the last N flows that fit. [{_LAST}, unless --since or -f is given]"
)
@click.option("-f", "--follow", "following", is_flag=True, help="Then show flows as they arrive, until Ctrl-C.")
@kafka_options
def observe(kafka: str | None, prefix: str | None, **options: Any) -> None:
    """Show flows: who talked to whom, what was decided, and by which policies.

    An option that is given twice shows both: --port 80 --port 443. Different options narrow the choice down. --not
    leaves out what fits the one condition behind it: --not --port 53 --not --reason node. In names, * stands for any
    text. docs/observe.md has examples.

    Denies and audits that are no longer among all flows are read from the topic that keeps them for longer. Times are
    UTC; that of another day than today has its date. A line says what a node has not logged because of
    WEIR_LIMIT_ALLOWED or WEIR_LIMIT_DENIED.

    \b
    Exit 0: flows were shown, or none match. 1: Kafka cannot be read. 2: the command is wrong.
    """
    try:
        settings, connection = read_settings(kafka, prefix)
        request = _read_request(options, datetime.now(UTC))
    except (SettingsError, ValueError) as error:
        raise click.UsageError(str(error)) from error
    try:
        readers = _readers(connection, settings, request)
        say(unreadable_yet(connection, settings.topics.flows.name))
        limited = _limited_lines(connection, settings.topics.status.name, request)
        try:
            _show(readers, limited, request, (settings.topics.flows.name, settings.topics.denied.name))
        finally:
            for problem in request.choice.problems():
                click.echo(f"weir: {problem}", err=True)
    except ReadError as error:
        end(error, connection, needs_to_read(settings.topics.flows.name))
    except BrokenPipeError:
        leave_stdout()
        sys.exit(Exit.OK)


def _read_request(options: dict[str, Any], now: datetime) -> _Request:
    """Return what the options ask for. Raises ValueError."""
    names = ("output", "fields", "by", "since", "until", "late", "last", "following")
    output, fields, by, since, until, late, last, following = (options.pop(name) for name in names)
    if by and following:
        raise ValueError("--by counts what was; weir top --by counts what comes")
    if by and fields:
        raise ValueError("--by and --fields cannot be used together: --by shows its own fields")
    if (fields or by) and output not in {"table", "json"}:
        raise ValueError(f"--{'by' if by else 'fields'} chooses the columns: use it with -o table or -o json")
    if since and last is not None:
        raise ValueError("--since and --last cannot be used together: choose one")
    start = parse_since(since, now) if since else None
    if start is not None and start > now and not following:
        raise ValueError(f"--since {since} is in the future, where no flows are; with -f it waits for them")
    if by and last is None:
        start = start or now - _COUNTED
    return _Request(
        read_choice(*split(without_not(options))),
        _window(start, until, late, now, following=following),
        last,
        following,
        output,
        read_columns("--fields", fields) if fields else None,
        read_columns("--by", by, counted=True) if by else None,
    )


def _window(since: datetime | None, until: str | None, late: str, now: datetime, *, following: bool) -> Window | None:
    slack = parse_duration(late)
    if until is None:
        return None if since is None else Window(since)
    if following:
        raise ValueError("--until and -f cannot be used together: what comes has no end")
    if since is None:
        raise ValueError("--until needs --since: from which time on?")
    last = parse_since(until, now)
    if last <= since:
        raise ValueError(f"--until {until} is not after --since, so that no flow fits")
    return Window(since, last, slack)


def _readers(connection: Connection, settings: Settings, request: _Request) -> list[TopicReader]:
    """Return a reader of all flows, and one of denies unless none are required, each of the partitions that matter."""
    verdicts = request.choice.required.verdicts
    readers = [TopicReader(connection, settings.topics.flows.name)]
    if not verdicts or set(verdicts) & {"deny", "audit"}:
        readers += _reader_of_denies(connection, settings.topics.denied.name)
    for reader in readers:
        narrow(reader, request.choice.subject_keys(), unix_ms(request.window.since) if request.window else None)
    return readers


def _reader_of_denies(connection: Connection, topic: str) -> list[TopicReader]:
    """Return a reader of the denies that are kept for longer, if there are any.

    Without a right to read them, all other flows are still shown."""
    try:
        return [TopicReader(connection, topic)]
    except NoTopicError:
        # A copy of the flows may be without the topic that keeps denies and audits for longer.
        return []
    except ReadError as error:
        click.echo(f"weir: denies that are no longer among all flows are missing here: {error}", err=True)
        return []


def _limited_lines(connection: Connection, topic: str, request: _Request) -> LimitedLines | None:
    """Return what shows the verdicts that limits have cut; without a right to read them, flows are still shown."""
    try:
        reader = TopicReader(connection, topic)
    except NoTopicError:
        # A copy of the flows may be without it, as of that of denies.
        return None
    except ReadError as error:
        click.echo(f"weir: what limits have cut is missing here: {error}", err=True)
        return None
    # JSON has nothing but records, for programs, and chosen columns have nothing else.
    is_apart = request.output == "json" or bool(request.fields or request.by)
    return LimitedLines(reader, request.choice.required.clusters, lambda line: click.echo(line, err=is_apart))


def _show(
    readers: Sequence[TopicReader], limited: LimitedLines | None, request: _Request, topics: Sequence[str]
) -> None:
    ends = [ends_of(reader) for reader in readers]
    limited_ends = limited.ends() if limited else {}
    window, write = request.window, writer_of(request.output, request.fields)
    shown = 0
    if request.by is not None:
        shown = _show_counts(readers, ends, request, request.by)
    else:
        is_by_id = request.choice.has_exact_ids() and not request.following
        named = dict(zip(topics, readers, strict=False))
        for flow in _flows_of_ids(named, request) if is_by_id else _past_flows(readers, ends, request):
            write(flow)
            shown += 1
            window = window or Window(datetime.fromisoformat(flow.flow.timestamp))
    if limited and window is not None:
        limited.show_past(window, limited_ends)
    if request.following:
        if limited:
            limited.follow_from(limited_ends)
        follow(readers[0], ends[0], request.choice, write, limited.show_new if limited else lambda: None)
    elif not shown:
        click.echo("weir: no flows match", err=True)


def _flows_of_ids(readers: Mapping[str, TopicReader], request: _Request) -> Iterable[Shown]:
    """Return the flows with the ids that are asked for, by their times."""
    since, until = (request.window or Window(datetime.fromtimestamp(0, UTC)))[:2]
    span = Span(unix_ms(since), unix_ms(until or datetime.now(UTC)), until is not None)
    with progress_removed():
        found = [
            one for record_id in request.choice.required.ids if (one := search(readers, record_id, span, show_progress))
        ]
    is_in_window = request.window.test() if request.window else lambda _: True
    fitting = [
        Shown(*one) for one in found
        if one.flow.logged and is_in_window(one.flow.timestamp) and request.choice.match(*one)
    ]  # fmt: skip
    fitting.sort(key=lambda one: one.flow.timestamp)
    return fitting if request.last is None else fitting[max(0, len(fitting) - request.last) :]


def _past_flows(
    readers: Sequence[TopicReader], ends: Sequence[Mapping[int, int]], request: _Request
) -> Iterable[Shown]:
    if request.window is not None:
        return since_matching(readers, ends, request.choice, request.window)
    if request.last is not None or not request.following:
        return last_of_all(readers, request.choice, _LAST if request.last is None else request.last)
    return ()


def _show_counts(
    readers: Sequence[TopicReader], ends: Sequence[Mapping[int, int]], request: _Request, by: Mapping[str, Read]
) -> int:
    """Count records, write the counts, and return how many combinations there are."""
    counts = Counts(by)
    if request.window is not None:
        counts.add_all(since_rows(readers, ends, request.choice, request.window, counts.row))
    else:
        counts.add_all(counts.row(shown.flow) for shown in last_of_all(readers, request.choice, request.last or 0))
    if request.output == "json":
        for line in counts.objects():
            sys.stdout.buffer.write(line + b"\n")
    elif len(counts):
        counts.write(PipeConsole(highlight=False))
    return len(counts)
