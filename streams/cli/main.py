"""`weir`: the command that people use to look at flows, policies, routes, alert rules and the chain of custody."""

from __future__ import annotations

import sys
from typing import Any

import click

from enrich.runtime.console import run_console
from enrich.runtime.version import version_text
from streams.cli.alerts import alerts
from streams.cli.dead_command import dead
from streams.cli.explain_command import explain
from streams.cli.observe_command import observe
from streams.cli.routes import routes
from streams.cli.status_command import status
from streams.cli.terminal import INTERRUPTED


class _Commands(click.Group):
    """All commands of `weir`. Each ends with the same exit code after Ctrl-C; click would take 1, as for an error."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command that was asked for."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            sys.exit(INTERRUPTED)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(version_text(), prog_name="weir")
def command() -> None:
    """Look at what network policies decide and whether all of it arrived, check the files of routes and alert rules,
    and send dead letters again."""


command.add_command(observe)
command.add_command(explain)
command.add_command(routes)
command.add_command(alerts)
command.add_command(dead)
command.add_command(status)


@command.command()
def version() -> None:
    """Print the version of kubeweir."""
    click.echo(version_text())


def main() -> None:
    """Run the console script."""
    run_console("weir", command)


if __name__ == "__main__":
    main()
