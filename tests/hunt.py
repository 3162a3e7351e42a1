"""``python -m tests.hunt``: run the property tests again and again with fresh seeds, until the time is over or one
fails.

The tests that everybody runs use fixed examples, so that they are never red by chance. This search is for a
contributor's machine overnight. A failure ends it: it prints the seed, the test, and the smallest failing input as an
``@example`` that can be pasted above the test, where it stays as a regression test.
"""

from __future__ import annotations

import os
import re
import secrets
import subprocess
import sys
import time
from typing import Final

import click

from streams.cli.terminal import INTERRUPTED

# Hypothesis has changed the words of its report once (6.170).
_BLOCK: Final = re.compile(
    r"(?:Failing test case|Falsifying example): (\w+)\(\n(.*?)^(?:E +)?\)", re.DOTALL | re.MULTILINE
)
_REMARK: Final = "  # or any other generated value"
_SUMMARY: Final = re.compile(r"^FAILED (\S+)", re.MULTILINE)


def example(output: str) -> str | None:
    """Return the smallest failing input in pytest's output as an ``@example`` decorator, None if there is none."""
    found = _BLOCK.search(output)
    if found is None:
        return None
    lines = [re.sub(r"^E +", "", line).strip().removesuffix(_REMARK) for line in found[2].splitlines()]
    return "\n".join(["@example(", *(f"    {line}" for line in lines if line), ")"])


def search(seed: int, arguments: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
    """Run every property test once with a seed."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "--no-header", "-m", "property", "--tb=short"]
    command += ["-p", "no:cacheprovider", f"--hypothesis-seed={seed}", *arguments]
    return subprocess.run(
        command, env={**os.environ, "KUBEWEIR_HYPOTHESIS_PROFILE": "hunt"}, capture_output=True, text=True, check=False
    )


@click.command()
@click.option("--minutes", type=click.FloatRange(min=0), default=30.0, show_default=True, help="Stop after this time.")
@click.option("--seed", type=int, help="Start with this seed instead of a random one, to see a failure again.")
@click.argument("arguments", nargs=-1, metavar="[PYTEST ARGUMENT]...")
def main(minutes: float, seed: int | None, arguments: tuple[str, ...]) -> None:
    """Search for inputs that break a property, with fresh seeds (`make hunt MINUTES=30`).

    PYTEST ARGUMENTs narrow the search, such as tests/kernel or `-k identities`. Exit codes: 0 nothing found, 1 found,
    130 after Ctrl-C.
    """
    end, rounds = time.monotonic() + minutes * 60, 0
    while rounds == 0 or time.monotonic() < end:
        seed = secrets.randbelow(1 << 32) if seed is None else seed
        started = time.monotonic()
        try:
            done = search(seed, arguments)
        except KeyboardInterrupt:
            click.echo(f"hunt: stopped; {rounds} seeds, nothing found", err=True)
            sys.exit(INTERRUPTED)
        if done.returncode:
            _report(seed, done, arguments)
            sys.exit(1)
        rounds += 1
        click.echo(f"hunt: seed {seed}: nothing found in {time.monotonic() - started:.0f} s")
        seed = None
    click.echo(f"hunt: {rounds} seeds, nothing found")


def _report(seed: int, done: subprocess.CompletedProcess[str], arguments: tuple[str, ...]) -> None:
    click.echo(done.stdout[-20_000:] + done.stderr[-5_000:])
    failed = _SUMMARY.search(done.stdout)
    click.echo(f"hunt: FOUND with seed {seed}: {failed[1] if failed else 'pytest failed'}")
    click.echo(f"hunt: again: python -m tests.hunt --minutes 0 --seed {seed} {' '.join(arguments)}".rstrip())
    found = example(done.stdout)
    if found is not None:
        click.echo(f"hunt: paste this above the test, to keep the input:\n\n{found}")


if __name__ == "__main__":
    main(prog_name="python -m tests.hunt")
