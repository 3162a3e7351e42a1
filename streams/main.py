"""The command `weir-streams`. It runs each role as a process of its own: it starts, supervises and stops them."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import click

from enrich.runtime.console import run_console
from enrich.runtime.credentials import CredentialWatch
from enrich.runtime.dead_threads import dead_thread, end_on_dead_threads
from enrich.runtime.process import Exit, StopRequest, StopServiceError, configure_logs, fail, stop_on_signals
from enrich.runtime.settings import SettingsError, describe, load
from enrich.runtime.version import version_text
from enrich.sources.metrics_guard import metrics_guard
from streams.roles.ending import begin_again, ending_surely, let_signals_end
from streams.roles.role_page import role_page
from streams.roles.supervisor import SUPERVISED, supervise
from streams.settings import Settings

ROLES: Final = ("enrich", "stdout", "file", "routes", "alerts", "journal")
"""The roles that take records further, in the order of their metrics ports."""
_PAGE: Final = len(ROLES)
"""How far the port of the page of all roles is from that of the role enrich."""
PORTS: Final = {role: number for number, role in enumerate(ROLES)} | {"web": _PAGE + 1, "hubble": _PAGE + 2}
"""All roles, each with how far its metrics port is from that of the role enrich."""
_PR_SET_PDEATHSIG: Final = 1

EXIT_CODES: Final = """\
\b
Exit codes:
  0  stopped by SIGTERM or SIGINT
  1  unexpected error
  2  a setting, a file or a manifest is wrong
  3  this machine lacks something that the role needs
  4  another instance is running: its metrics port is taken
  5  Kafka refuses the service permanently, and not for a missing right: that is waited for
"""


@click.command(
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=f"\b\nSettings, from the environment:\n{describe(Settings)}\n\n{EXIT_CODES}",
)
@click.argument("roles", nargs=-1, type=click.Choice(tuple(PORTS)), metavar="[ROLE]...")
@click.option("--alone", is_flag=True, help="Run one ROLE in this process, unsupervised: another service restarts it.")
@click.version_option(version_text(), prog_name="weir-streams")
def command(roles: Sequence[str], alone: bool) -> None:
    """Enrich verdicts, send the records to sinks, and raise alerts.

    \b
    ROLE is one of:
      enrich  read raw batches, write one record per verdict, to the topics of routes too
      stdout  write every record to standard output
      file    write every record to a file, in GKE's format
      routes  run the outputs of WEIR_ROUTES that are not Kafka topics
      alerts  evaluate the alert rules and notify their outputs
      journal keep each version of policies, and of what names, on a topic
      web     serve a page that shows verdicts as they arrive, on WEIR_WEB
      hubble  serve flows by Hubble's API

    Without ROLE it runs enrich, the sinks in WEIR_SINKS, routes if WEIR_ROUTES is set, alerts unless WEIR_ALERTS is -,
    journal unless WEIR_JOURNAL_DAYS is 0, and hubble if WEIR_HUBBLE is set. Each role is a process of its own. A role
    that ends unexpectedly is restarted with a backoff from 1 s to 30 s; one that ends with exit code 2 to 5 (somebody
    must mend something) after 30 s. If all have, this program ends so.
    """
    try:
        settings = load(Settings, os.environ)
        configure_logs(settings.log_level, settings.log_format)
        chosen = list(dict.fromkeys(roles or default_roles(settings)))
        _check(chosen, settings, alone=alone)
        stop = stop_on_signals()
        code = _run_alone(chosen[0], settings, stop) if alone else _supervise(chosen, settings, stop)
    except SettingsError as error:
        code = fail(StopServiceError(str(error), Exit.USAGE), "weir-streams")
    except StopServiceError as error:
        code = fail(error, "weir-streams")
    sys.exit(int(code))


def _supervise(roles: Sequence[str], settings: Settings, stop: threading.Event) -> int:
    """Run each role as a process of its own, and serve the readiness of all behind the roles' own ports."""
    host, _, port = settings.metrics.rpartition(":")
    renewed = threading.Event()
    with contextlib.ExitStack() as stack:
        stack.enter_context(CredentialWatch(settings, renewed.set).running())
        if port.isdigit() and int(port):  # else the roles take any free ports
            ports = {role: int(port) + PORTS[role] for role in roles}
            page = f"{host}:{int(port) + _PAGE}"
            stack.enter_context(role_page(page, ports, metrics_guard(settings)))
        return supervise(roles, stop, renewed)


def _run_alone(role: str, settings: Settings, stop: StopRequest) -> int:
    """Run a role in this process. If no supervisor of ours does it, begin again when credentials are renewed.

    A signal that comes meanwhile ends the process all the same."""
    if os.environ.get(SUPERVISED) == "1":
        return run_role(role, settings, stop)
    renewed = threading.Event()

    def on_renewed() -> None:
        if stop.is_set():
            return
        renewed.set()
        stop.set()
        # Without Kafka, a role may end its process, because it waits in vain for acknowledgements.
        time.sleep(0.9 * settings.stop_timeout)
        if not stop.by_signal:
            begin_again(role)

    with CredentialWatch(settings, on_renewed).running():
        try:
            code = run_role(role, settings, stop)
        except (StopServiceError, SettingsError):
            # Kafka may have refused the earlier credentials.
            if not renewed.is_set():
                raise
            code = Exit.OK
        if renewed.is_set():
            let_signals_end()
            if not stop.by_signal:
                begin_again(role)
        return code


def default_roles(settings: Settings) -> list[str]:
    """Return the roles that run if the command line names none."""
    routes = ["routes"] if settings.routes else []
    alerts = ["alerts"] if settings.alerts != "-" else []
    hubble = ["hubble"] if settings.hubble else []
    return ["enrich", *settings.sinks, *routes, *alerts, *(["journal"] if settings.journal_days else []), *hubble]


def _check(roles: Sequence[str], settings: Settings, *, alone: bool) -> None:
    unknown = [role for role in roles if role not in PORTS]
    if unknown:
        raise StopServiceError(f"WEIR_SINKS: there is no sink {unknown[0]!r}; use stdout or file", Exit.USAGE)
    if "journal" in roles and not settings.journal_days:
        text = "the role journal cannot run with WEIR_JOURNAL_DAYS=0, which says that no journal is kept"
        raise StopServiceError(f"{text}: set how many days it answers for, or leave the role out", Exit.USAGE)
    if alone and len(roles) != 1:
        raise StopServiceError(f"--alone takes exactly one ROLE, not {len(roles)}", Exit.USAGE)


def run_role(role: str, settings: Settings, stop: threading.Event) -> int:
    """Run one role in this process until ``stop``; return the exit code. Raises StopServiceError, SettingsError."""
    if os.environ.get(SUPERVISED) == "1":
        # Without its supervisor, nothing would stop this process. So the kernel stops it when the supervisor dies, even
        # by kill -9.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    host, _, port = settings.metrics.rpartition(":")
    if port.isdigit() and int(port):
        settings = replace(settings, metrics=f"{host}:{int(port) + PORTS[role]}")
    _check_connection(settings)
    end_on_dead_threads(stop.set)
    with ending_surely(stop, settings.stop_timeout):
        code = _run_role(role, settings, stop)
    return Exit.UNEXPECTED if dead_thread() else code


def _check_connection(settings: Settings) -> None:
    from streams.kafka.connection import checked  # noqa: PLC0415 - the supervisor needs no client of Kafka

    checked(settings.connection())


def _run_role(role: str, settings: Settings, stop: threading.Event) -> int:
    if role == "enrich":
        from streams.roles.enrich import run_enrich  # noqa: PLC0415 - a role imports only what it needs

        return run_enrich(settings, stop)
    if role == "alerts":
        from streams.roles.alerts import run_alerts  # noqa: PLC0415 - as above

        return run_alerts(settings, stop)
    if role == "journal":
        from streams.roles.journal import run_journal  # noqa: PLC0415 - as above

        return run_journal(settings, stop)
    if role == "web":
        from streams.web.role import run_web  # noqa: PLC0415 - as above

        return run_web(settings, stop)
    if role == "hubble":
        from streams.roles.hubble import run_hubble  # noqa: PLC0415 - as above

        return run_hubble(settings, stop)
    from streams.roles.sinks import run_routes, run_sink  # noqa: PLC0415 - as above

    return run_routes(settings, stop) if role == "routes" else run_sink(role, settings, stop)


def main() -> None:
    """Run the console script."""
    run_console("weir-streams", command)


if __name__ == "__main__":
    main()
