"""``python -m tests.fuzz``: send malformed records to everything that decodes a topic (`make hunt` begins with it).

No record may end a reader, or be read as something else, and each must be accounted for. Each topic has a process of
its own. A failure ends it: it prints the smallest record that fails, as a line for ``tests/fuzz/found.py``, where it
stays as a regression test.
"""

from __future__ import annotations

import multiprocessing
import os
import secrets
import signal
import sys

import click

from streams.cli.terminal import INTERRUPTED
from tests.fuzz.run import run
from tests.fuzz.topics import READERS


@click.command()
@click.option("--records", type=click.IntRange(min=1), default=1_000_000, show_default=True, help="Of each topic.")
@click.option("--seed", type=int, help="Begin with this seed instead of a random one, to see a failure again.")
@click.option("--only", multiple=True, type=click.Choice(list(READERS)), help="Only this topic; can be repeated.")
def main(records: int, seed: int | None, only: tuple[str, ...]) -> None:
    """Send malformed records to every reader of every topic. Exit codes: 0 nothing found, 1 found, 130 after Ctrl-C."""
    seed = secrets.randbelow(1 << 32) if seed is None else seed
    click.echo(f"fuzz: seed {seed}")
    jobs = [(topic, seed, records) for topic in READERS if not only or topic in only]
    try:
        # Ctrl-C on the terminal reaches the pool's processes too, and each would print a traceback. They end with the
        # block.
        with multiprocessing.get_context("spawn").Pool(
            min(len(jobs), os.cpu_count() or 1), signal.signal, (signal.SIGINT, signal.SIG_IGN)
        ) as pool:
            for found in pool.imap_unordered(run, jobs):
                if found is not None:
                    click.echo(f"{found.text}\nfuzz: FOUND with seed {seed} on {found.topic}")
                    click.echo(f"fuzz: add this to tests/fuzz/found.py:\n\n    ({found.topic!r}, {found.value!r}),")
                    sys.exit(1)
    except KeyboardInterrupt:
        click.echo("fuzz: stopped; nothing found so far", err=True)
        sys.exit(INTERRUPTED)
    click.echo(f"fuzz: {len(jobs)} topics, {records:,} records of each, nothing found")


if __name__ == "__main__":
    main(prog_name="python -m tests.fuzz")
