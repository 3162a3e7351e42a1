"""`weir backtest`: what would have changed, had some policies been in force."""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import click
from rich.text import Text

from enrich.history.backtest import Backtest, Outcome
from enrich.history.change import Change
from enrich.history.comparing import Comparer
from enrich.history.distinctions import Network
from enrich.history.moments import moment
from enrich.runtime.console import leave_stdout
from enrich.runtime.settings import SettingsError, load
from enrich.sources.manifest_files import ManifestError
from enrich.wire.pair import HOUR_NS
from streams.cli.backtest import ChangeError, as_json, lines, read_change
from streams.cli.kafka_failure import needs_to_read, say_why
from streams.cli.observe import parse_window
from streams.cli.pairs_reading import not_counted, read_pairs
from streams.cli.past import Past, load_past, parse_pod_cidrs
from streams.cli.terminal import PipeConsole, printable
from streams.kafka.connection import Connection, ReadError, checked
from streams.settings import EVERY_CLUSTER, Settings

DENIES: Final = 1
CANNOT_SAY: Final = 3


@click.command()
@click.argument("files", nargs=-1, type=click.Path(exists=True, path_type=Path), metavar="[FILE]...")
@click.option("--since", default="7d", show_default=True, help="Begin of the window: 90s, 5m, 2h, 3d ago, or a time.")
@click.option("--until", help="End of the window, in the same forms. [now]")
@click.option("--replace", "replace_all", is_flag=True, help="The files are all policies: no other is in force.")
@click.option(
    "--delete", "deleted", multiple=True, metavar="KIND/NS/NAME", help="This policy is not in force. Repeatable."
)
@click.option("--strict", is_flag=True, help="Exit with 3 if it cannot say of anything that was allowed.")
@click.option(
    "--pod-cidr", "pod_cidrs", multiple=True, help="Where pods have their addresses. [spec.podCIDRs of nodes]"
)
@click.option("--show", "most", type=click.IntRange(0), default=50, show_default=True, help="Findings in a table.")
@click.option("--cluster", envvar="WEIR_CLUSTER", help="Cluster, where several share the topics. [WEIR_CLUSTER]")
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True)
@click.option("--kafka", help="Kafka bootstrap servers. [WEIR_KAFKA, else 127.0.0.1:9092]")
@click.option("--topic-prefix", "prefix", help="Prefix of the topics. [WEIR_TOPIC_PREFIX, else kubeweir]")
def backtest(files: Sequence[Path], kafka: str | None, prefix: str | None, **given: Any) -> None:
    """Say what would have changed, had the policies in FILEs been in force since then, with all else as it was.

    Each combination of ends and port that was seen is judged again by the policies of its time with this change. The
    journal and the pairs of the window are read from Kafka; workers count pairs if they have WEIR_PAIRS=1. No policy is
    applied anywhere. Times are UTC.

    \b
    Exit 0: nothing that was allowed would be denied. 1: something would be. 2: the command or a file is wrong.
    3: it cannot say: Kafka cannot be read, or has nothing of this window.
    """
    env = {**os.environ, **{k: v for k, v in (("WEIR_KAFKA", kafka), ("WEIR_TOPIC_PREFIX", prefix)) if v}}
    try:
        asked = _asked(load(Settings, env), files, given)
    except ManifestError as error:
        click.echo("\n".join(f"weir: {printable(problem)}" for problem in error.problems), err=True)
        sys.exit(2)
    except (SettingsError, ValueError) as error:
        raise click.UsageError(str(error)) from error
    topics = asked.settings.topics
    try:
        code = _run(asked)
    except ReadError as error:
        say_why(error, asked.connection, needs_to_read(topics.journal.name, topics.pairs.name))
        code = CANNOT_SAY
    except BrokenPipeError:
        leave_stdout()
        code = CANNOT_SAY
    except Exception:
        # Exit 1 means that something would be denied, so that nothing else may end with it.
        traceback.print_exc()
        code = CANNOT_SAY
    sys.exit(code)


@dataclass(frozen=True, slots=True)
class _Asked:
    """What the command line says."""

    settings: Settings
    connection: Connection
    cluster: str
    change: Change
    pod_cidrs: tuple[Network, ...]
    since_ns: int
    until_ns: int
    output: str
    most: int
    strict: bool


def _asked(settings: Settings, files: Sequence[Path], given: Mapping[str, Any]) -> _Asked:
    """Check the command line and the files. Raises ValueError, of which SettingsError and ManifestError are."""
    change = read_change(files, given["deleted"], replace_all=given["replace_all"])
    if change == Change():
        raise ChangeError("name at least one FILE, or a policy with --delete")
    since_ns, until_ns = parse_window(given["since"], given["until"], datetime.now(UTC))
    return _Asked(
        settings, checked(settings.connection()), "" if given["cluster"] in (None, EVERY_CLUSTER) else given["cluster"],
        change, parse_pod_cidrs(given["pod_cidrs"]), since_ns, until_ns,
        given["output"], given["most"], given["strict"],
    )  # fmt: skip


def _run(asked: _Asked) -> int:
    """Read, judge and print. Returns the exit code; raises ReadError."""
    window = asked.since_ns, asked.until_ns
    left_out = asked.settings.profile_labels_left_out
    past = load_past(asked.connection, asked.settings.topics, asked.cluster, asked.since_ns, left_out, asked.pod_cidrs)
    made, begins_ns = judge_window(asked.connection, asked.settings, past, asked.change, window)
    findings = list(made.findings())
    notes = [*past.notes, *_notes(past, asked.change, begins_ns, window)]
    if why := not_counted(begins_ns, asked.until_ns, found=any(one.findings for one in made.sums.values())):
        notes.append(why)
    if output_is_json := asked.output == "json":
        sys.stdout.buffer.write(json.dumps(as_json(made, findings, *window, notes)).encode() + b"\n")
        sys.stdout.buffer.flush()
    else:
        console = PipeConsole(highlight=False)
        for style, line in lines(made, findings, asked.most):
            console.print(Text(printable(line), style=style), soft_wrap=True)
    for note in () if output_is_json else notes:
        click.echo(f"weir: {printable(note)}", err=True)
    return exit_code(made, strict=asked.strict)


def judge_window(
    connection: Connection, settings: Settings, past: Past, change: Change, window: tuple[int, int]
) -> tuple[Backtest, int]:
    """Return the backtest of all pairs of a window, and from when on these are complete. Raises ReadError."""
    since_ns, until_ns = window
    made = Backtest(Comparer(past.timeline, past.known, change))
    hours = (since_ns // HOUR_NS, until_ns // HOUR_NS + 1)
    reading = read_pairs(connection, settings.topics, *hours, past.timeline.cluster)
    started = time.monotonic()
    for count, pair in enumerate(reading):
        if pair.last_ns >= since_ns and pair.first_ns <= until_ns:
            made.add(pair)
        if count % 10_000 == 0 and time.monotonic() - started > 1 and sys.stderr.isatty():
            click.echo(f"\rweir: {count:,} pairs judged, up to {moment(pair.last_ns)}", nl=False, err=True)
    if reading.unreadable:
        past.notes.append(f"{reading.unreadable} records of pairs cannot be read")
    return made, max(reading.complete_since_hour * HOUR_NS, since_ns)


def exit_code(made: Backtest, *, strict: bool) -> int:
    """Return the exit code of a result."""
    if made.sums[Outcome.NEWLY_DENIED].findings:
        return DENIES
    said = sum(found.findings for outcome, found in made.sums.items() if outcome is not Outcome.CANNOT_SAY)
    doubts = strict and any(one.verdict != "deny" for one in made.findings() if one.outcome is Outcome.CANNOT_SAY)
    return CANNOT_SAY if not said or doubts else 0


def _notes(past: Past, change: Change, begins_ns: int, window: tuple[int, int]) -> list[str]:
    since_ns, until_ns = window
    notes = []
    if begins_ns > since_ns:
        notes.append(f"the pairs are complete from {moment(begins_ns)} on, and not before")
    if past.timeline.begins_ns > since_ns:
        notes.append(f"the journal can answer from {moment(past.timeline.begins_ns)} on, and not before")
    for gap in past.timeline.gaps()[1:]:
        if gap.covers(since_ns, until_ns):
            notes.append(f"{gap.text}: what was seen only then cannot be judged")
    absent = change.absent(past.timeline.view_at(at) for at in (since_ns, until_ns))
    notes += [f"there was no {'/'.join(part for part in one if part)} to delete" for one in absent]
    return notes
