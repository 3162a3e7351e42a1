"""``python -m tests.chaos``: see ``--help``."""

from __future__ import annotations

import secrets
import shutil
import signal
import sys
import tempfile
from pathlib import Path

import click

from enrich.runtime.process import Exit, configure_logs
from streams.cli.terminal import INTERRUPTED
from tests.chaos.faults import FAULTS
from tests.chaos.ground import Ground
from tests.chaos.runner import Pace, Run

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
    if missing := [tool for tool in ("java", "openssl") if shutil.which(tool) is None]:
        click.echo(f"chaos: needs {', '.join(missing)}: run deploy/local/setup", err=True)
        sys.exit(Exit.UNABLE)
    seed = secrets.randbelow(1 << 32) if seed is None else seed
    click.echo(f"chaos: seed {seed}; again: python -m tests.chaos --seed {seed}")
    configure_logs("error", "auto")
    folder = Path(tempfile.mkdtemp(prefix="weir-chaos-"))
    passed, code = False, int(Exit.UNEXPECTED)
    try:
        ground = Ground(folder, seed)
        try:
            run = Run(ground, seed, _SHORT_PACE if short else Pace(), click.echo)
            passed = run.run(_SHORT_S if short else minutes * 60)
            if passed:
                code = INTERRUPTED if run.stopped else Exit.OK
        finally:
            ground.close()
    except KeyboardInterrupt:
        click.echo("chaos: stopped without an account", err=True)
        code = INTERRUPTED
    finally:
        if passed:
            shutil.rmtree(folder)
        else:
            click.echo(f"chaos: what the services wrote is in {folder}", err=True)
    sys.exit(code)


if __name__ == "__main__":
    # What the run has started is ended, also if the command is asked to stop or its terminal is closed: brokers and
    # roles are in process groups of their own, which the terminal does not end.
    for one in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(one) is not signal.SIG_IGN:
            signal.signal(one, lambda *_: sys.exit(Exit.UNEXPECTED))
    main(prog_name="python -m tests.chaos")
