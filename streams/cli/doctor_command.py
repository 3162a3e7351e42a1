"""`weir doctor`: whether this machine reaches Kafka and the Kubernetes API, and what is wrong there."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Final

import click

from enrich.runtime.console import leave_stdout
from enrich.runtime.process import Exit, configure_logs
from enrich.runtime.settings import SettingsError
from enrich.runtime.version import version_text
from enrich.wire.rights import PRINCIPALS, Principal
from streams.cli.doctor.api import api
from streams.cli.doctor.asking import Asking
from streams.cli.doctor.brokers import brokers, rights
from streams.cli.doctor.finding import Finding, ok, problem, warning
from streams.cli.doctor.reports import reports
from streams.cli.doctor.topics import topics
from streams.cli.doctor.transactions import transactions
from streams.cli.kafka_options import chosen_cluster, cluster_option, kafka_options, read_settings
from streams.cli.number import Number
from streams.cli.terminal import printable

_WIDTH: Final = 7


@click.command()
@click.option("--timeout", type=Number(1, 3600), default=30.0, show_default=True, help="Seconds for all questions.")
@click.option(
    "--for", "principal", type=click.Choice(list(PRINCIPALS)), default="readers", show_default=True,
    help="Whose rights on Kafka are looked for: in a pod of weir-streams, workers.",
)  # fmt: skip
@cluster_option
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
@kafka_options
def doctor(
    timeout: float, principal: Principal, cluster: str | None, output: str, kafka: str | None, prefix: str | None
) -> None:
    """Look whether Kafka and the Kubernetes API can be reached from here, and say what to do about what is wrong.

    Each line says ok, warning or problem: of each broker, the rights of this user, the topics, transactions that do not
    end, each node and the workers with their versions, clocks, and what this account may read from the API server.
    Nothing is changed.

    \b
    Exit 0: no problem. 1: some problem. 2: the command is wrong.
    """
    # The libraries' own lines are for services.
    configure_logs("critical", "console")
    found = _findings(timeout, principal, chosen_cluster(cluster), kafka, prefix)
    problems = sum(one.level == "problem" for one in found)
    try:
        for line in _as_text(found, problems) if output == "text" else [_as_json(found, problems)]:
            # Anyone who may write to a topic, or answers as a broker, chooses texts, and a terminal obeys some.
            click.echo(printable(line))
    except BrokenPipeError:
        leave_stdout()
    sys.exit(Exit.UNEXPECTED if problems else Exit.OK)


def _findings(
    timeout_s: float, principal: Principal, cluster: str, kafka: str | None, prefix: str | None
) -> Sequence[Finding]:
    asking = Asking(timeout_s)
    found = [ok("weir", f"version {version_text()}")]
    # A wrong setting of Kafka does not keep the API server from being asked.
    kubernetes = asking.start("Kubernetes", partial(api, os.environ.get("WEIR_SOURCE") or "kubernetes"))
    try:
        settings, connection = read_settings(kafka, prefix)
    except SettingsError as error:
        return [*found, problem("settings", str(error)), *asking.findings(kubernetes)]
    found += asking.findings(asking.start("Kafka", partial(brokers, connection)))
    if any(one.level == "ok" for one in found[1:]):
        given = bool(os.environ.get("WEIR_PARTITIONS"))
        asked = [
            asking.start("rights", partial(rights, connection, principal, settings.prefix, cluster)),
            asking.start(f"{settings.prefix}.*", partial(topics, connection, settings, partitions_given=given)),
            asking.start("transactions", partial(transactions, connection, settings)),
            asking.start(settings.topics.status.name, partial(reports, connection, settings, cluster)),
        ]
        found += [one for each in asked for one in asking.findings(each)]
    else:
        found.append(warning("Kafka", "rights, topics, nodes and workers are not known, because no broker can be used"))
    return [*found, *asking.findings(kubernetes)]


def _as_json(found: Sequence[Finding], problems: int) -> str:
    return json.dumps({"schema": 1, "problems": problems, "findings": [one._asdict() for one in found]})


def _as_text(found: Sequence[Finding], problems: int) -> Iterator[str]:
    for one in found:
        yield f"{one.level:<{_WIDTH}}  {one.about}: {one.text}"
    warnings = sum(one.level == "warning" for one in found)
    yield ""
    yield f"{_count(problems, 'problem')}, {_count(warnings, 'warning')}."


def _count(number: int, word: str) -> str:
    return f"{number or 'no'} {word}{'s' * (number != 1)}"
