"""`weir dead`: what is on the dead-letter topic, why, and sending it again."""

from __future__ import annotations

import functools
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import click
import orjson

from enrich.runtime.console import leave_stdout
from enrich.runtime.process import Exit
from enrich.runtime.settings import SettingsError
from enrich.wire.topics import Topics
from streams.cli.dead_letters import Letter, Redriven, letter_of, mark_of, redriven_headers, why_not
from streams.cli.kafka_failure import end, needs_to_read
from streams.cli.kafka_options import kafka_options, read_settings
from streams.kafka.connection import Connection, ReadError
from streams.kafka.ranges import ends_of, read_range
from streams.kafka.reading import TopicReader
from streams.kafka.redrive import Resender
from streams.kafka.topics import partitions_of
from streams.timestamps import rfc3339

_LIMIT: Final = 1000
_SHOWN_BYTES: Final = 2000
_REASONS: Final = click.option(
    "--reason", "reasons", multiple=True, help="Only letters of this reason; may be repeated."
)
_Command = Callable[..., None]


@dataclass(frozen=True, slots=True)
class _DeadTopic:
    """The dead-letter topic as it is when the command starts: what comes later is not looked at."""

    connection: Connection
    topics: Topics
    reader: TopicReader
    ends: Mapping[int, int]

    @property
    def name(self) -> str:
        """The name of the topic."""
        return self.topics.dead.name

    def letters(self) -> Iterator[Letter]:
        """Read the topic from its beginning."""
        start = {partition: first for partition, (first, _) in self.reader.bounds().items()}
        return (letter_of(record) for record in read_range(self.reader, start, self.ends))


def _opened(command: _Command) -> _Command:
    """Give a command the dead-letter topic as its first argument, and end it with the cause if Kafka refuses it."""

    @kafka_options
    @functools.wraps(command)
    def run(kafka: str | None, prefix: str | None, **options: Any) -> None:
        try:
            settings, connection = read_settings(kafka, prefix)
        except SettingsError as error:
            raise click.UsageError(str(error)) from error
        try:
            reader = TopicReader(connection, settings.topics.dead.name)
            ends = ends_of(reader)
            command(_DeadTopic(connection, settings.topics, reader, ends), **options)
        except ReadError as error:
            end(error, connection, needs_to_read(settings.topics.dead.name))
        except BrokenPipeError:
            leave_stdout()

    return run


@click.group()
def dead() -> None:
    """Look at the dead-letter topic, and send letters again."""


@dead.command("list")
@_REASONS
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
@_opened
def list_(topic: _DeadTopic, reasons: Sequence[str], output: str) -> None:
    """List the dead letters: when, why, where each came from, and whether it was sent again.

    \b
    Exit 0: the topic was read to its end. 1: Kafka cannot be read.
    """
    redriven, counts = Redriven(topic.letters()), Counter[tuple[str, str]]()
    for letter in _chosen(topic.letters(), reasons):
        counts[letter.reason or "none", letter.topic or "?"] += 1
        state = redriven.state(letter)
        if output == "json":
            click.echo(orjson.dumps({**_summary(letter), "state": state}))
        else:
            error = letter.headers.get("error", "")
            click.echo(
                f"{letter.id}  {rfc3339(letter.timestamp_ms / 1000)}  {letter.reason}  from {letter.origin}  "
                f"{len(letter.value)} bytes  {f'{state}  ' if state else ''}{error}"
            )
    for (reason, origin), count in sorted(counts.items()):
        click.echo(f"{count} of the reason {reason} from {origin}", err=True)
    if not counts:
        click.echo("weir: no dead letters", err=True)


@dead.command()
@click.argument("letter_id", metavar="PARTITION/OFFSET")
@click.option("--raw", is_flag=True, help="Write the record's bytes only, as they came.")
@_opened
def show(topic: _DeadTopic, letter_id: str, raw: bool) -> None:
    """Show one dead letter: its headers, and the beginning of the record.

    \b
    Exit 0: it was shown. 1: Kafka cannot be read. 2: there is no such letter.
    """
    letter = next((one for one in topic.letters() if one.id == letter_id), None)
    if letter is None:
        raise click.UsageError(f"{topic.name} has no letter {letter_id}; `weir dead list` shows those it has")
    if raw:
        sys.stdout.buffer.write(letter.value)
        sys.stdout.buffer.flush()
        return
    click.echo(f"time: {rfc3339(letter.timestamp_ms / 1000)}")
    for name, text in letter.headers.items():
        click.echo(f"{name}: {text}")
    state = Redriven(topic.letters()).state(letter)
    if state:
        click.echo(f"state: {state}")
    click.echo(f"value: {len(letter.value)} bytes{', of which the first:' if len(letter.value) > _SHOWN_BYTES else ''}")
    # The repr of bytes has no control characters, which a terminal would obey.
    click.echo(repr(letter.value[:_SHOWN_BYTES])[2:-1])


@dead.command()
@click.argument("letter_ids", metavar="[PARTITION/OFFSET]...", nargs=-1)
@_REASONS
@click.option("--limit", type=click.IntRange(1), default=_LIMIT, show_default=True, help="Send so many at most.")
@click.option("--again", is_flag=True, help="Also those that came back after they had been sent again.")
@click.option("--dry-run", "only_shown", is_flag=True, help="Say what would be sent, and send nothing.")
@_opened
def redrive(
    topic: _DeadTopic, letter_ids: Sequence[str], reasons: Sequence[str], limit: int, again: bool, only_shown: bool
) -> None:
    """Send dead letters to the topics that they came from: these, those of a reason, or all.

    Mend the cause first. A record that is sent again has the header `redriven`, with how many times that makes, and
    goes to its old partition. What was sent is marked on the dead-letter topic and not sent a second time; a letter
    that comes back is only sent with --again. Letters that come while this runs are left alone.

    \b
    Exit 0: all were sent. 1: some were not, or Kafka cannot be reached. 2: the command is wrong.
    """
    redriven, left = Redriven(topic.letters()), set(letter_ids)
    names = [one.name for one in topic.topics]
    partitions = partitions_of(topic.connection, names)
    resender = Resender(topic.connection)
    sent = kept = 0
    for letter in _chosen(topic.letters(), reasons):
        if letter_ids and letter.id not in letter_ids:
            continue
        left.discard(letter.id)
        if redriven.has(letter) and not letter_ids:
            continue
        why = why_not(letter, redriven, topic.topics, partitions, again)
        if not why and sent == limit:
            click.echo(f"{letter.id}: not sent: the limit of {limit} is reached; run the command again", err=True)
            kept += 1
            break
        if why:
            kept += 1
            click.echo(f"{letter.id}: not sent: {why}", err=True)
            continue
        if not only_shown:
            _resend(resender, topic, letter, redriven)
        sent += 1
        click.echo(f"{letter.id}: {'would be sent' if only_shown else 'sent'} to {letter.origin.rpartition('/')[0]}")
    for missing in sorted(left):
        kept += 1
        click.echo(f"{missing}: not sent: {topic.name} has no such letter", err=True)
    click.echo(f"{sent} {'would be sent' if only_shown else 'sent'}, {kept} not", err=True)
    sys.exit(Exit.UNEXPECTED if kept else Exit.OK)


def _resend(resender: Resender, topic: _DeadTopic, letter: Letter, redriven: Redriven) -> None:
    """Send a letter, then mark it: after a crash between the two it is sent once more, and never lost."""
    headers = redriven_headers(letter, redriven, topic.name)
    resender.send(letter.topic, int(letter.headers["partition"]), letter.key, letter.value, headers)
    key, marks = mark_of(letter)
    resender.send(topic.name, letter.partition, key, b"", marks)
    redriven.add(letter.id, letter.sha256)


def _chosen(letters: Iterator[Letter], reasons: Sequence[str]) -> Iterator[Letter]:
    return (letter for letter in letters if not letter.is_mark and (not reasons or letter.reason in reasons))


def _summary(letter: Letter) -> dict[str, Any]:
    time = rfc3339(letter.timestamp_ms / 1000)
    return {"id": letter.id, "time": time, "bytes": len(letter.value), "headers": letter.headers}
