"""`weir explain`: say why a connection is allowed or denied."""

from __future__ import annotations

import os
import sys
import traceback
from dataclasses import replace

import click
import msgspec

from enrich.explain.query import QuerySyntaxError
from enrich.runtime.console import leave_stdout
from enrich.runtime.process import configure_logs
from enrich.runtime.settings import SettingsError, load
from streams.cli.explain import CANNOT_SAY, EXITS, Settings, UnreadableError, ask
from streams.cli.explain_text import show
from streams.cli.terminal import PipeConsole


@click.command()
@click.argument("source")
@click.argument("destination")
@click.option("--source", "origin", help="kubernetes, or manifests:FOLDER [WEIR_SOURCE, else kubernetes]")
@click.option("--timeout", type=click.FloatRange(0), help="Seconds for the API server [WEIR_EXPLAIN_SECONDS, else 15]")
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
def explain(source: str, destination: str, origin: str | None, timeout: float | None, output: str) -> None:
    """Say whether SOURCE may connect to DESTINATION, which policies decide, and why the others do not match.

    \b
    SOURCE       NAMESPACE/POD, or an address
    DESTINATION  NAMESPACE/POD:PORT, ADDRESS:PORT or [V6ADDRESS]:PORT; PORT is a number or a name of the pod's;
                 behind it /UDP or /SCTP (TCP unless you say so); NAMESPACE/POD/ICMP for ICMP

    \b
    Exit 0: allowed (audited too: it passes). 1: denied. 2: cannot say.
    """
    try:
        # The sources' own lines are for services; what a person must know is in the answer.
        configure_logs("critical", "console")
        settings = load(Settings, {**os.environ, **({"WEIR_SOURCE": origin} if origin else {})})
        settings = settings if timeout is None else replace(settings, timeout_s=timeout)
        found = ask(settings, source, destination)
        if output == "json":
            sys.stdout.buffer.write(msgspec.json.encode(found) + b"\n")
            sys.stdout.buffer.flush()
        else:
            show(found, PipeConsole(highlight=False))
    except (SettingsError, QuerySyntaxError) as error:
        raise click.UsageError(str(error)) from error
    except UnreadableError as error:
        click.echo(f"weir: cannot say: {error}", err=True)
        sys.exit(CANNOT_SAY)
    except BrokenPipeError:
        leave_stdout()
    except OSError as error:
        leave_stdout()
        click.echo(f"weir: cannot say: {error}", err=True)
        sys.exit(CANNOT_SAY)
    except Exception:
        # Exit 1 means denied, so that nothing else may end with it.
        traceback.print_exc()
        sys.exit(CANNOT_SAY)
    sys.exit(EXITS.get(found.verdict, CANNOT_SAY))
