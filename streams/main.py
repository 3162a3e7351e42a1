"""`weir-streams`: each role a process of its own; this one starts them, watches them, and stops them."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import click

from enrich.runtime.process import Exit, StopServiceError, configure_logs, fail, stop_on_signals
from enrich.runtime.settings import SettingsError, describe, load
from streams.roles.supervisor import supervise
from streams.settings import Settings

ROLES: Final = ("enrich", "stdout", "file", "routes", "alerts")
"""In the order of their metrics ports."""
_PR_SET_PDEATHSIG: Final = 1

_EXIT_CODES: Final = """\
\b
Exit codes:
  0  stopped by SIGTERM or SIGINT
  1  unexpected
  2  a setting or a manifest is wrong
  3  cannot run here
  4  another one runs already: its port is taken
  5  Kafka refuses for good
"""


@click.command(
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=f"\b\nSettings, from the environment:\n{describe(Settings)}\n\n{_EXIT_CODES}",
)
@click.argument("roles", nargs=-1, type=click.Choice(ROLES), metavar="[ROLE]...")
@click.option("--alone", is_flag=True, help="Run the one role in this process, where something else restarts it.")
@click.version_option(package_name="kubeweir", prog_name="weir-streams")
def command(roles: Sequence[str], alone: bool) -> None:
    """Enrich verdicts and hand the records to sinks.

    ROLE is enrich (raw batches in, one record a verdict out, and the topics of routes), stdout or file (sinks of those
    records), routes (the other outputs of routes), or alerts. Without one: the enricher, the sinks that WEIR_SINKS
    names, routes if there is a WEIR_ROUTES, and alerts. Each role is a process of its own. One that ends unexpectedly
    is started again, after 1 s and up to 30 s; exit codes 2 to 5 end all.
    """
    try:
        settings = load(Settings, os.environ)
        configure_logs(settings.log_level, settings.log_format)
        wanted = list(dict.fromkeys(roles or default_roles(settings)))
        _check(wanted, alone=alone)
        stop = stop_on_signals()
        code = run_role(wanted[0], settings, stop) if alone else supervise(wanted, stop)
    except SettingsError as error:
        code = fail(StopServiceError(str(error), Exit.USAGE), "weir-streams")
    except StopServiceError as error:
        code = fail(error, "weir-streams")
    sys.exit(int(code))


def default_roles(settings: Settings) -> list[str]:
    """What runs when no role is named."""
    routes = ["routes"] if settings.routes else []
    return ["enrich", *settings.sinks, *routes, *(["alerts"] if settings.alerts != "-" else [])]


def _check(wanted: Sequence[str], *, alone: bool) -> None:
    unknown = [role for role in wanted if role not in ROLES]
    if unknown:
        raise StopServiceError(f"WEIR_SINKS: no sink {unknown[0]!r}; there are stdout and file", Exit.USAGE)
    if alone and len(wanted) != 1:
        raise StopServiceError("--alone takes one role", Exit.USAGE)


def run_role(role: str, settings: Settings, stop: threading.Event) -> int:
    """Do the work of one role until ``stop``; the exit code."""
    if os.environ.get("WEIR_SUPERVISED") == "1":
        # Nobody would restart or stop an orphan: it goes when its supervisor does, even by kill -9.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    host, _, port = settings.metrics.rpartition(":")
    if port.isdigit() and int(port):
        settings = replace(settings, metrics=f"{host}:{int(port) + ROLES.index(role)}")
    if role == "enrich":
        from streams.roles.enrich import run_enrich  # noqa: PLC0415 - a role loads what it needs

        return run_enrich(settings, stop)
    if role == "alerts":
        from streams.roles.alerts import run_alerts  # noqa: PLC0415 - as above

        return run_alerts(settings, stop)
    from streams.roles.sinks import run_routes, run_sink  # noqa: PLC0415 - as above

    return run_routes(settings, stop) if role == "routes" else run_sink(role, settings, stop)


def main() -> None:
    """The console script."""
    command()


if __name__ == "__main__":
    main()
