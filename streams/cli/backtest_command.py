"""`weir backtest`: what would have changed, had some policies been in force."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click
from rich.text import Text

from enrich.history.backtest import Backtest, Outcome
from enrich.history.change import Change
from enrich.history.comparing import Comparer
from enrich.history.moments import moment
from enrich.sources.manifest_documents import ManifestError
from streams.cli.advice_window import (
    Window,
    exit_code,
    refuse_files,
    run_in_window,
    strict_option,
    window_options,
)
from streams.cli.backtest import ChangeError, as_json, check_within, lines, read_change
from streams.cli.terminal import PipeConsole, printable, progress_removed, say, show_progress


@click.command()
@click.argument("files", nargs=-1, type=click.Path(exists=True, allow_dash=True, path_type=Path), metavar="[FILE]...")
@click.option("--replace", "replace_all", is_flag=True, help="The files are all policies: no other is in force.")
@click.option(
    "--delete", "deleted", multiple=True, metavar="KIND/NS/NAME", help="This policy is not in force. Repeatable."
)
@click.option(
    "-n", "--namespace", help="Only what pods of this namespace decided about. Only its NetworkPolicies may change."
)
@strict_option
@click.option("--show", "most", type=click.IntRange(0), default=50, show_default=True, help="Findings in a table.")
@click.option("--most", "most_in_json", type=click.IntRange(0), help="Findings in JSON. [all]")
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True)
@window_options
def backtest(
    files: Sequence[Path],
    deleted: Sequence[str],
    namespace: str | None,
    most: int,
    most_in_json: int | None,
    output: str,
    *,
    replace_all: bool,
    strict: bool,
    **given: Any,
) -> None:
    """Say what would have changed, had the policies in FILEs been in force since then, with all else as it was. - reads
    policies from standard input.

    Each combination of ends and port that was seen is judged again by the policies of its time with this change. The
    journal and the pairs of the window are read from Kafka; workers count pairs if they have WEIR_PAIRS=1. No policy is
    applied anywhere. Times are UTC.

    \b
    Exit 0: nothing that was allowed would be denied. 1: something would be. 2: the command or a file is wrong.
    3: it cannot say: Kafka cannot be read, or has nothing of this window.
    """
    try:
        change = read_change(files, deleted, replace_all=replace_all)
        if namespace is not None:
            check_within(change, namespace)
    except ManifestError as error:
        refuse_files(error)
    except ChangeError as error:
        raise click.UsageError(str(error)) from error
    if change == Change():
        raise click.UsageError("name at least one FILE, or a policy with --delete")

    def answer(window: Window) -> int:
        made = _judged(window, change, namespace)
        findings = list(made.findings(most_in_json if output == "json" else None))
        notes = [*window.notes, *_notes(window, change)]
        if output == "json":
            click.echo(json.dumps(as_json(made, findings, window.since_ns, window.until_ns, notes)))
        else:
            console = PipeConsole(highlight=False)
            for style, line in lines(made, findings, most):
                console.print(Text(printable(line), style=style), soft_wrap=True)
            say(notes)
        return _exit_code(made, strict=strict, has_losses=window.has_losses)

    run_in_window(given, answer)


def _judged(window: Window, change: Change, namespace: str | None) -> Backtest:
    """Return the backtest of the pairs of a window whose subject is in a namespace; None: of all. Raises ReadError."""
    made = Backtest(Comparer(window.past.timeline, window.past.known, change), for_reader=window.for_reader)
    started = time.monotonic()
    with progress_removed():
        for count, pair in enumerate(window.pairs()):
            if namespace is None or pair.key.subject.namespace == namespace:
                made.add(pair)
            if count % 10_000 == 0 and time.monotonic() - started > 1:
                show_progress(f"{count:,} pairs judged, up to {moment(pair.last_ns)}")
    return made


def _exit_code(made: Backtest, *, strict: bool, has_losses: bool) -> int:
    said = sum(found.findings for outcome, found in made.sums.items() if outcome is not Outcome.CANNOT_SAY)
    doubts = strict and (made.is_unsaid or has_losses)
    return exit_code(denies=made.sums[Outcome.NEWLY_DENIED].findings > 0, said=said > 0, doubts=doubts)


def _notes(window: Window, change: Change) -> Iterator[str]:
    """Yield what the journal does not know of the window, and the policies to delete that it does not have."""
    timeline, since_ns, until_ns = window.past.timeline, window.since_ns, window.until_ns
    if timeline.begins_ns > since_ns:
        yield f"the journal can answer from {moment(timeline.begins_ns)} on, and not before"
    for gap in timeline.gaps()[1:]:
        if gap.covers(since_ns, until_ns):
            yield f"{gap.text}: what was seen only then cannot be judged"
    for one in change.absent(timeline.view_at(at) for at in (since_ns, until_ns)):
        yield f"there was no {'/'.join(part for part in one if part)} to delete"
