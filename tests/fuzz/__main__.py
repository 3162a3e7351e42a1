"""``python -m tests.fuzz``: send malformed records to everything that decodes a topic (`make hunt` begins with it).

No record may end a reader, or be read as something else, and each must be accounted for. Each topic has a process of
its own. A failure ends it: it prints the smallest record that fails, as a line for ``tests/fuzz/found.py``, where it
stays as a regression test.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import secrets
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import click
import structlog

from tests.fuzz.mutate import malformed, smaller
from tests.fuzz.topics import READERS

_REPORT_S: Final = 20.0
_QUIET: Final = 50


class Failure(NamedTuple):
    """A record that a reader does not take as it should."""

    topic: str
    value: bytes
    text: str
    """The traceback."""


def failure(reader: Callable[[bytes], None], value: bytes) -> str:
    """Return what goes wrong with a record, empty if nothing does."""
    try:
        reader(value)
    except Exception:
        return traceback.format_exc()
    return ""


def fuzz(topic: str, seed: int, records: int, say: Callable[[str], Any] = lambda _: None) -> Failure | None:
    """Send malformed records to the readers of a topic; return the first that fails, as small as it gets."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(_QUIET))
    rng = random.Random(f"{seed}/{topic}")  # noqa: S311 - a seed must give the same records
    reader = READERS[topic]()
    began = reported = time.monotonic()
    try:
        for number in range(records):
            value = malformed(rng, rng.choice(reader.good))
            text = failure(reader, value)
            if text:
                return _smallest(topic, value, text)
            if time.monotonic() - reported > _REPORT_S:
                reported = time.monotonic()
                say(f"fuzz: {topic}: {number + 1:,} records, {(number + 1) / (reported - began):,.0f} a second")
    finally:
        reader.close()
    say(f"fuzz: {topic}: {records:,} records, nothing found, {records / (time.monotonic() - began):,.0f} a second")
    return None


def _smallest(topic: str, value: bytes, text: str) -> Failure:
    def found(one: bytes) -> str:
        return failure(READERS[topic](), one)

    small = smaller(value, lambda one: _last(found(one)) == _last(text))
    return Failure(topic, small, found(small) or text)


def _last(text: str) -> str:
    """Return the kind of the error in a traceback."""
    return text.strip().rpartition("\n")[2].partition(":")[0]


def _run(job: tuple[str, int, int]) -> Failure | None:
    return fuzz(*job, say=lambda text: print(text, flush=True))


@click.command()
@click.option("--records", type=click.IntRange(min=1), default=1_000_000, show_default=True, help="Of each topic.")
@click.option("--seed", type=int, help="Begin with this seed instead of a random one, to see a failure again.")
@click.option("--only", multiple=True, type=click.Choice(list(READERS)), help="Only this topic; can be repeated.")
def main(records: int, seed: int | None, only: tuple[str, ...]) -> None:
    """Send malformed records to every reader of every topic. Exit codes: 0 nothing found, 1 found."""
    seed = secrets.randbelow(1 << 32) if seed is None else seed
    click.echo(f"fuzz: seed {seed}")
    jobs = [(topic, seed, records) for topic in READERS if not only or topic in only]
    with multiprocessing.get_context("spawn").Pool(min(len(jobs), os.cpu_count() or 1)) as pool:
        for found in pool.imap_unordered(_run, jobs):
            if found is not None:
                click.echo(f"{found.text}\nfuzz: FOUND with seed {seed} on {found.topic}")
                click.echo(f"fuzz: add this to tests/fuzz/found.py:\n\n    ({found.topic!r}, {found.value!r}),")
                sys.exit(1)
    click.echo(f"fuzz: {len(jobs)} topics, {records:,} records of each, nothing found")


if __name__ == "__main__":
    main(prog_name="python -m tests.fuzz")
