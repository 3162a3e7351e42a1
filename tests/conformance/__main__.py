"""``python -m tests.conformance``: see ``--help``."""

from __future__ import annotations

import os
import resource
import signal
import sys
from pathlib import Path
from typing import NoReturn, cast

import click

from enrich.runtime.process import Exit, configure_logs
from probe.kernel.program import LoadError
from tests.conformance.case import MalformedError
from tests.conformance.runner import Mode, run, select


@click.command()
@click.option("--family", type=click.Choice(["4", "6"]), help="IPv4 or IPv6; default: both, one after the other.")
@click.option(
    "--mode", type=click.Choice(["wire", "run"]), default="wire", show_default=True,
    help="wire: real connections between namespaces; run: the loaded program runs on frames by BPF_PROG_RUN.",
)  # fmt: skip
@click.option("--only", metavar="GLOB", default="*", help="Run only cases whose id, or path below DIR, matches.")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
def main(family: str | None, mode: str, only: str, folder: Path) -> None:
    """Run the policy cases in the JSON files below DIR against the loaded program.

    Prints a line for each connection whose outcome differs from the case, and last the number of cases. A case has
    passed if it has passed in each family. Exit codes: 0 all passed, 1 some failed, 2 no case or a malformed one, 3
    cannot run here.
    """
    if not folder.is_dir():
        _end(f"{folder} is not a folder", Exit.USAGE)
    if os.geteuid() != 0:
        _end("must run as root, to make network namespaces and load kernel programs", Exit.UNABLE)
    configure_logs("error", "auto")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(Exit.UNEXPECTED))
    # Each connection of a step needs a socket, and all of them are open at once.
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limits[1], limits[1]))
    families = [int(family)] if family else [4, 6]
    try:
        files = select(folder, only)
        failed = set()
        for file, lines in run(files, families, cast("Mode", mode)):
            for line in lines:
                click.echo(line)
            if lines:
                failed.add(file)
    except MalformedError as error:
        _end(str(error), Exit.USAGE)
    except LoadError as error:
        _end(str(error), Exit.UNABLE)
    click.echo(f"{len(files) - len(failed)} passed, {len(failed)} failed")
    sys.exit(Exit.UNEXPECTED if failed else Exit.OK)


def _end(message: str, code: Exit) -> NoReturn:
    click.echo(f"conformance: {message}", err=True)
    sys.exit(code)


if __name__ == "__main__":
    main(prog_name="python -m tests.conformance")
