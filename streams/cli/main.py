"""`weir`: the command that people use to look at flows, policies, routes and alert rules."""

from __future__ import annotations

import sys

import click

from enrich.runtime.process import Exit
from enrich.runtime.version import version_text
from streams.cli.alerts import alerts
from streams.cli.dead_command import dead
from streams.cli.explain_command import explain
from streams.cli.observe_command import observe
from streams.cli.routes import routes
from streams.cli.terminal import leave_stdout


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(version_text(), prog_name="weir")
def command() -> None:
    """Look at what network policies decide, check the files of routes and alert rules, and send dead letters again."""


command.add_command(observe)
command.add_command(explain)
command.add_command(routes)
command.add_command(alerts)
command.add_command(dead)


@command.command()
def version() -> None:
    """Print the version of kubeweir."""
    click.echo(version_text())


def main() -> None:
    """Run the console script. A standard output that takes nothing (a full disk) is one line and an exit code."""
    code: object = Exit.OK
    try:
        try:
            command()
        except SystemExit as stop:
            code = stop.code
        sys.stdout.flush()
    except BrokenPipeError:
        leave_stdout()
    except OSError as error:
        if error.filename is not None:
            raise
        leave_stdout()
        click.echo(f"weir: standard output cannot be written: {error.strerror}", err=True)
        code = Exit.UNABLE
    sys.exit(code)  # type: ignore[arg-type]  # as click has set it


if __name__ == "__main__":
    main()
