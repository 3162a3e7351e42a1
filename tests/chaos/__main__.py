"""``python -m tests.chaos``: see ``--help``."""

from __future__ import annotations

import contextlib
from pathlib import Path

import click

from tests.chaos.faults import FAULTS
from tests.chaos.ground import Ground
from tests.chaos.runner import Pace, Run
from tests.long_run import carry_out, need, run_as_program

_SHORT_S = 30.0
_SHORT_PACE = Pace(lasts=(1.0, 8.0), pause=(0.5, 2.0))


@click.command()
@click.option("--minutes", type=click.FloatRange(min=0, min_open=True), default=20.0, show_default=True,
              help="Make faults for so long.")  # fmt: skip
@click.option("--seed", type=int, help="Repeat the faults of an earlier run.")
@click.option("--short", is_flag=True, help="Less than a minute of faults that follow each other quickly.")
@click.option("--list", "names", is_flag=True, help="List the faults.")
def main(minutes: float, seed: int | None, *, short: bool, names: bool) -> None:
    """Make faults of all kinds at random in probes, Kafka, the API server and all roles, and account for each verdict.

    Three real brokers with certificates and ACLs, the probe's spool and publishers, pods that come and go and reuse
    addresses. Says every 10 s how the account stands; the last line sums up. Ctrl-C ends the faults and sums up; Ctrl-C
    again ends at once. Exit codes: 0 nothing lost, no wrong name and no false health, 1 otherwise, 3 cannot run here,
    130 after Ctrl-C if nothing is wrong so far. What services wrote is kept if something is wrong.
    """
    if names:
        for one in FAULTS:
            click.echo(f"{one.name} ({one.lane}): {(one.make.__doc__ or '').strip()}")
        return
    need("chaos", ("java", "openssl"))

    def work(folder: Path, seed: int) -> tuple[bool, bool]:
        with contextlib.closing(Ground(folder, seed)) as ground:
            run = Run(ground, seed, _SHORT_PACE if short else Pace(), click.echo)
            return run.run(_SHORT_S if short else minutes * 60), run.stopped

    carry_out("chaos", seed, work)


if __name__ == "__main__":
    run_as_program("chaos", main)
