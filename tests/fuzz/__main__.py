"""``python -m tests.fuzz``: send malformed records to everything that decodes a topic (`make hunt` begins with it).

No record may end a reader, or be read as something else, and each must be accounted for. Each processor has a process,
which takes a part of one topic after the other. A failure ends the run: it prints the smallest records that fail, as a
line for ``tests/fuzz/found.py``, where they stay as a regression test.
"""

from __future__ import annotations

import multiprocessing
import os
import secrets
import signal
import sys
import time
from collections import Counter

import click

from streams.cli.terminal import INTERRUPTED
from tests.fuzz.run import Failure, parts, run
from tests.fuzz.topics import READERS

_REPORT_S = 20.0


@click.command()
@click.option("--records", type=click.IntRange(min=1), default=1_000_000, show_default=True, help="Of each topic.")
@click.option("--seed", type=int, help="Begin with this seed instead of a random one, to see a failure again.")
@click.option("--only", multiple=True, type=click.Choice(list(READERS)), help="Only this topic; can be repeated.")
def main(records: int, seed: int | None, only: tuple[str, ...]) -> None:
    """Send malformed records to every reader of every topic. Exit codes: 0 nothing found, 1 found, 130 after Ctrl-C."""
    seed = secrets.randbelow(1 << 32) if seed is None else seed
    topics = [topic for topic in READERS if not only or topic in only]
    click.echo(f"fuzz: seed {seed}")
    done: Counter[str] = Counter()
    try:
        found = _send(topics, seed, records, done)
    except KeyboardInterrupt:
        click.echo(f"fuzz: stopped; nothing found so far in {_text(done)}", err=True)
        sys.exit(INTERRUPTED)
    if found is not None:
        click.echo(f"{found.text}\nfuzz: FOUND with seed {seed} on {found.topic}")
        click.echo(f"fuzz: add this to tests/fuzz/found.py:\n\n    ({found.topic!r}, {found.values!r}),")
        sys.exit(1)
    click.echo(f"fuzz: {len(topics)} topics, {records:,} records of each, nothing found")


def _send(topics: list[str], seed: int, records: int, done: Counter[str]) -> Failure | None:
    """Send the records, and count those in which nothing was found. Return what is found first."""
    began = reported = time.monotonic()
    # Ctrl-C on the terminal reaches the pool's processes too, and each would print a traceback. They end with the
    # block.
    with multiprocessing.get_context("spawn").Pool(
        min(len(topics), os.cpu_count() or 1), signal.signal, (signal.SIGINT, signal.SIG_IGN)
    ) as pool:
        for part, found in pool.imap_unordered(run, parts(topics, seed, records)):
            if found is not None:
                return found
            done[part.topic] += part.records
            if time.monotonic() - reported > _REPORT_S:
                reported = time.monotonic()
                click.echo(f"fuzz: {_text(done)}; {done.total() / (reported - began):,.0f} a second")
    return None


def _text(done: Counter[str]) -> str:
    return ", ".join(f"{topic} {count:,}" for topic, count in sorted(done.items())) or "no record"


if __name__ == "__main__":
    main(prog_name="python -m tests.fuzz")
