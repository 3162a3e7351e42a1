"""`weir explain`: say why a connection is allowed or denied."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import click
import msgspec

from enrich.explain.query import QuerySyntaxError
from enrich.runtime.console import leave_stdout
from enrich.runtime.process import configure_logs
from enrich.runtime.settings import SettingsError, load
from streams.cli.explain import CANNOT_SAY, EXITS, Settings, UnreadableError, ask
from streams.cli.explain_text import Line, lines, show_lines, suggestion_lines
from streams.cli.kafka_options import cluster_option, environment_with
from streams.cli.number import Number
from streams.cli.past_answers import NoAnswerError, ask_past, past_lines
from streams.cli.terminal import PipeConsole


@click.command()
@click.argument("source", metavar="SOURCE|RECORD-ID")
@click.argument("destination", required=False)
@click.option("--at", "at", help="Ask the policies of then: 90s, 5m, 2h, 3d ago, or an RFC 3339 time.")
@click.option("--suggest", is_flag=True, help="Print the smallest policies that would allow what is denied.")
@click.option("--since", default="1d", show_default=True, help="From when on the record of an id is looked for.")
@click.option("--until", help="Up to when it is looked for, in the same forms. [now]")
@click.option("--source", "origin", help="kubernetes, or manifests:FOLDER (- for stdin) [WEIR_SOURCE, else kubernetes]")
@click.option("--timeout", type=Number(0), help="Seconds for the API server [WEIR_EXPLAIN_SECONDS, else 15]")
@cluster_option
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
@click.option("--kafka", help="Kafka bootstrap servers, for the past. [WEIR_KAFKA, else 127.0.0.1:9092]")
@click.option("--topic-prefix", "prefix", help="Prefix of the topics. [WEIR_TOPIC_PREFIX, else kubeweir]")
def explain(source: str, destination: str | None, origin: str | None, timeout: float | None, **given: Any) -> None:
    """Say whether SOURCE may connect to DESTINATION, which policies decide, and why the others do not match.

    \b
    SOURCE       NAMESPACE/POD, or an address
    DESTINATION  NAMESPACE/POD:PORT, ADDRESS:PORT or [V6ADDRESS]:PORT; PORT is a number or a name of the pod's;
                 behind it /UDP or /SCTP (TCP unless you say so); NAMESPACE/POD/ICMP for ICMP
    RECORD-ID    the id of a record, alone: what policies said when it was made

    In a folder of manifests, NAMESPACE/NAME of a Deployment (or another workload) stands for its pods. Addresses of
    pods are invented there; if the answer depends on them, it cannot say.

    With --at or an id, the journal on Kafka answers, and says what has changed since. Times are UTC.

    With --suggest, it also prints the smallest NetworkPolicies that would allow the connection by the policies of
    today, as YAML to review and apply. It changes nothing itself.

    \b
    Exit 0: allowed (audited too: it passes). 1: denied. 2: cannot say.
    """
    output = given["output"]
    try:
        # The sources' own lines are for services; what a person must know is in the answer.
        configure_logs("critical", "console")
        if destination is None or given["at"]:
            past = ask_past(source, destination, {**given, "now": origin or timeout})
            verdict = past.then.verdict
            _print(past, past_lines(past), output)
        else:
            settings = load(Settings, environment_with({"WEIR_SOURCE": origin}))
            settings = settings if timeout is None else replace(settings, timeout_s=timeout)
            found, suggestion = ask(settings, source, destination)
            verdict = found.verdict
            if given["suggest"]:
                suggested = suggestion()
                shown = {**msgspec.to_builtins(found), "suggestion": msgspec.to_builtins(suggested)}
                _print(shown, (*lines(found), *suggestion_lines(suggested)), output)
            else:
                _print(found, lines(found), output)
    except (SettingsError, QuerySyntaxError) as error:
        raise click.UsageError(str(error)) from error
    except NoAnswerError as error:
        error.say()
        sys.exit(CANNOT_SAY)
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
    sys.exit(EXITS.get(verdict, CANNOT_SAY))


def _print(found: object, text: Iterable[Line], output: str) -> None:
    if output == "json":
        sys.stdout.buffer.write(msgspec.json.encode(found) + b"\n")
        sys.stdout.buffer.flush()
    else:
        show_lines(text, PipeConsole(highlight=False))
