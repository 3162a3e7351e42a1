"""`weir`: the command that people use to ask about flows, policies and the past, and to check files and the log."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any, Final

import click
from click.shell_completion import CompletionItem, get_completion_class

from enrich.runtime.console import run_console
from enrich.runtime.version import version_text
from streams.cli.terminal import INTERRUPTED

_MODULES: Final = {
    "observe": "observe_command",
    "top": "top_command",
    "explain": "explain_command",
    "backtest": "backtest_command",
    "recommend": "recommend_command",
    "policies": "policies_command",
    "diff": "diff_command",
    "check": "check_command",
    "verify": "verify_command",
    "sql": "sql_command",
    "routes": "routes",
    "alerts": "alerts",
    "dead": "dead_command",
    "status": "status_command",
    "doctor": "doctor_command",
    "bugreport": "bugreport_command",
    "size": "size_command",
    "mcp": "mcp_command",
}
"""The commands, by their names, and the modules of this package that have them, under the same name. Only the one that
is asked for is imported: all together take longer than most of them run."""
_PLUGIN: Final = "kubectl-weir"
"""The name under which kubectl finds the command: `kubectl weir` runs `kubectl-weir`."""


class _Commands(click.Group):
    """All commands of `weir`. Each ends with the same exit code after Ctrl-C; click would take 1, as for an error."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands."""
        return [*_MODULES, *(name for name in super().list_commands(ctx) if name not in _MODULES)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command; None if there is none with this name."""
        if cmd_name in _MODULES and cmd_name not in self.commands:
            module = importlib.import_module(f"streams.cli.{_MODULES[cmd_name]}")
            self.add_command(getattr(module, cmd_name))
        return super().get_command(ctx, cmd_name)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Return the commands that begin so, for a shell. click would import every module for a line of help."""
        names = [CompletionItem(name) for name in self.list_commands(ctx) if name.startswith(incomplete)]
        return [*names, *click.Command.shell_complete(self, ctx, incomplete)]

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command that was asked for."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            sys.exit(INTERRUPTED)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(version_text(), prog_name="weir")
def command() -> None:
    """Show what network policies decide and why, now and in the past; try, recommend and compare policies; check
    whether everything is in the log, and the files of routes and alert rules; send dead letters again."""


@command.command()
def version() -> None:
    """Print the version of kubeweir."""
    click.echo(version_text())


@command.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print a script by which a shell completes the commands and options of weir.

    \b
    bash   weir completion bash > ~/.local/share/bash-completion/completions/weir
    zsh    weir completion zsh > "${fpath[1]}/_weir"
    fish   weir completion fish > ~/.config/fish/completions/weir.fish

    The folder must be there. The script asks the weir that is installed, so an upgrade needs no new one.
    """
    found = get_completion_class(shell)
    assert found is not None  # noqa: S101 - click has all of the choices
    click.echo(found(command, {}, "weir", "_WEIR_COMPLETE").source())


def called() -> str:
    """Return what somebody types to run this program: `weir`, or `kubectl weir` if kubectl runs it as its plugin."""
    return _PLUGIN.replace("-", " ") if Path(sys.argv[0]).stem == _PLUGIN else "weir"


def main() -> None:
    """Run the console script."""
    name = called()
    run_console(name, lambda: command(prog_name=name, complete_var="_WEIR_COMPLETE"))


if __name__ == "__main__":
    main()
