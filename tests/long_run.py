"""What the commands of long runs (``tests/chaos``, ``tests/custody``) have in common: seed, folder, signals and end."""

from __future__ import annotations

import secrets
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

import click

from enrich.runtime.process import Exit, configure_logs
from streams.cli.terminal import INTERRUPTED


def need(name: str, tools: Sequence[str]) -> None:
    """End the command ``name`` if one of these programs is missing."""
    if missing := [tool for tool in tools if shutil.which(tool) is None]:
        cannot_run(name, f"needs {', '.join(missing)}: run deploy/local/setup")


def cannot_run(name: str, why: str) -> NoReturn:
    """End the command ``name``, because it cannot run on this machine."""
    click.echo(f"{name}: {why}", err=True)
    sys.exit(Exit.UNABLE)


def carry_out(name: str, seed: int | None, work: Callable[[Path, int], tuple[bool, bool]]) -> NoReturn:
    """Do the work of the command ``name`` with a folder and a seed, and end the command with an exit code.

    The work returns whether nothing is wrong, and whether Ctrl-C has ended it early. Its folder is removed if nothing
    is wrong.
    """
    seed = secrets.randbelow(1 << 32) if seed is None else seed
    click.echo(f"{name}: seed {seed}; again: python -m tests.{name} --seed {seed}")
    configure_logs("error", "auto")
    folder = Path(tempfile.mkdtemp(prefix=f"weir-{name}-"))
    passed, code = False, int(Exit.UNEXPECTED)
    try:
        passed, stopped = work(folder, seed)
        if passed:
            code = INTERRUPTED if stopped else Exit.OK
    except KeyboardInterrupt:
        click.echo(f"{name}: stopped without an account", err=True)
        code = INTERRUPTED
    finally:
        if passed:
            shutil.rmtree(folder)
        else:
            click.echo(f"{name}: what the services wrote is in {folder}", err=True)
    sys.exit(code)


def run_as_program(name: str, command: click.Command) -> None:
    """Run the command ``name`` as the program of this process.

    What the run has started is ended, also if the command is asked to stop or its terminal is closed: some of its
    processes are in process groups of their own, which the terminal does not end.
    """
    for one in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(one) is not signal.SIG_IGN:
            signal.signal(one, lambda *_: sys.exit(Exit.UNEXPECTED))
    command(prog_name=f"python -m tests.{name}")
