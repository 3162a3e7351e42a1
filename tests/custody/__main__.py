"""``python -m tests.custody``: see ``--help``."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import Final, NoReturn

import click

from enrich.runtime.process import Exit, configure_logs
from streams.cli.terminal import INTERRUPTED
from tests.custody.ground import Ground
from tests.custody.runner import Pace, Run
from tests.programs import use_for_services

_SHORT_S: Final = 20.0
_SHORT_PACE: Final = Pace(flips=(0.5, 1.5), lives=(1.0, 3.0), faults=(2.0, 3.5))
_TOOLS: Final = ("ip", "nsenter", "nft", "sysctl", "java")


@click.command()
@click.option("--minutes", type=click.FloatRange(min=0, min_open=True), default=20.0, show_default=True,
              help="Send for so long.")  # fmt: skip
@click.option("--seed", type=int, help="Repeat the choices of an earlier run.")
@click.option("--short", is_flag=True, help="Less than a minute.")
def main(minutes: float, seed: int | None, *, short: bool) -> None:
    """Prove the log against the wire: every connection is in it once per enforcing end, and nothing else is.

    Captures packets inside pods while connections of every kind run through the real programs, policies change, pods
    reuse addresses, the probe is killed and upgraded and Kafka restarts. An account that knows only the captures and
    the script then compares them with the records. Ctrl-C ends the traffic early and makes the account. Exit codes: 0
    no difference, 1 otherwise, 3 cannot run here, 130 after Ctrl-C without a difference. What services wrote is kept if
    there is one.
    """
    if os.geteuid() != 0:
        _end("must run as root, to make network namespaces and load kernel programs")
    if missing := [tool for tool in _TOOLS if shutil.which(tool) is None]:
        _end(f"needs {', '.join(missing)}: run deploy/local/setup")
    seed = secrets.randbelow(1 << 32) if seed is None else seed
    click.echo(f"custody: seed {seed}; again: python -m tests.custody --seed {seed}")
    configure_logs("error", "auto")
    use_for_services()
    folder = Path(tempfile.mkdtemp(prefix="weir-custody-"))
    passed, code = False, int(Exit.UNEXPECTED)
    try:
        ground = Ground(folder)
        try:
            run = Run(ground, seed, _SHORT_PACE if short else Pace(), click.echo)
            report = run.run(_SHORT_S if short else minutes * 60)
        finally:
            ground.close()
        for line in report.lines():
            click.echo(line)
        passed = not report.differences and report.verdicts > 0
        if passed:
            code = INTERRUPTED if run.stopped else Exit.OK
    except KeyboardInterrupt:
        click.echo("custody: stopped without an account", err=True)
        code = INTERRUPTED
    finally:
        if passed:
            shutil.rmtree(folder)
        else:
            click.echo(f"custody: what the services wrote is in {folder}", err=True)
    sys.exit(code)


def _end(message: str) -> NoReturn:
    click.echo(f"custody: {message}", err=True)
    sys.exit(Exit.UNABLE)


if __name__ == "__main__":
    # What the run has started is ended, also if the command is asked to stop or its terminal is closed.
    for one in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(one) is not signal.SIG_IGN:
            signal.signal(one, lambda *_: sys.exit(Exit.UNEXPECTED))
    main(prog_name="python -m tests.custody")
