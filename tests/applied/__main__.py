"""``python -m tests.applied``: see ``--help``."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Final

import click

from tests.applied.ground import Ground
from tests.applied.search import search
from tests.applied.trial import Account
from tests.long_run import cannot_run, carry_out, need, run_as_program

_TOOLS: Final = ("ip", "nsenter", "nft", "sysctl")


@click.command()
@click.option("--predictions", type=click.IntRange(1), default=100_000, show_default=True, help="Stop after so many.")
@click.option("--seed", type=int, help="Repeat the choices of an earlier run.")
def main(predictions: int, seed: int | None) -> None:
    """Prove backtests: predict what a change of policies does, put it in force, send the same packets again.

    In random clusters, verdicts of the real programs at real veth pairs become pairs, and a backtest says of each what
    a random change of policies makes of it. Then the change is put in force in the kernel, and each prediction is
    compared with the verdict about the same packet. Exit codes: 0 nothing was predicted wrongly, 1 otherwise, 3 cannot
    run here, 130 after Ctrl-C without a wrong prediction.
    """
    if os.geteuid() != 0:
        cannot_run("applied", "must run as root, to make network namespaces and load kernel programs")
    need("applied", _TOOLS)

    def work(folder: Path, seed: int) -> tuple[bool, bool]:
        account, stopped = Account(), False
        with contextlib.closing(Ground(folder)) as ground:
            try:
                search(ground, seed, predictions, account, lambda line: click.echo(f"applied: {line}"))
            except KeyboardInterrupt:
                stopped = True
        for line in account.lines():
            click.echo(line)
        return not account.wrong and account.predictions > 0, stopped

    carry_out("applied", seed, work)


if __name__ == "__main__":
    run_as_program("applied", main)
