"""``python -m tests.custody``: see ``--help``."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from typing import Final

import click

from tests.custody.evidence import load
from tests.custody.ground import Ground
from tests.custody.runner import Pace, Run, judge
from tests.long_run import cannot_run, carry_out, need, run_as_program
from tests.programs import use_for_services

_SHORT_S: Final = 20.0
_SHORT_PACE: Final = Pace(flips=(0.5, 1.5), lives=(1.0, 3.0), faults=(2.0, 3.5))
_TOOLS: Final = ("ip", "nsenter", "nft", "sysctl", "java")


@click.command()
@click.option("--minutes", type=click.FloatRange(min=0, min_open=True), default=20.0, show_default=True,
              help="Send for so long.")  # fmt: skip
@click.option("--seed", type=int, help="Repeat the choices of an earlier run.")
@click.option("--short", is_flag=True, help="Less than a minute.")
@click.option("--again", type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="Run nothing: make the account of an earlier run's evidence.pickle again.")  # fmt: skip
def main(minutes: float, seed: int | None, again: Path | None, *, short: bool) -> None:
    """Prove the log against the wire: every connection is in it once per enforcing end, and nothing else is.

    Captures packets inside pods while connections of every kind run through the real programs, policies change, pods
    reuse addresses, the probe is killed and upgraded and Kafka restarts. An account that knows only the captures and
    the script then compares them with the records. Ctrl-C ends the traffic early and makes the account. Exit codes: 0
    no difference, 1 otherwise, 3 cannot run here, 130 after Ctrl-C without a difference. What services wrote is kept if
    there is one, with everything that the account was made of.
    """
    if again:
        report = judge(load(again))
        for line in (*report.differences, *report.lines()):
            click.echo(line)
        sys.exit(bool(report.differences))
    if os.geteuid() != 0:
        cannot_run("custody", "must run as root, to make network namespaces and load kernel programs")
    need("custody", _TOOLS)

    def work(folder: Path, seed: int) -> tuple[bool, bool]:
        with contextlib.closing(Ground(folder)) as ground:
            run = Run(ground, seed, _SHORT_PACE if short else Pace(), click.echo)
            report = run.run(_SHORT_S if short else minutes * 60)
        for line in report.lines():
            click.echo(line)
        return not report.differences and report.verdicts > 0, run.stopped

    use_for_services()
    carry_out("custody", seed, work)


if __name__ == "__main__":
    run_as_program("custody", main)
