"""`weir observe`: show the flows that fit some filters, past ones and as they arrive."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import click

from enrich.runtime.process import Exit
from enrich.runtime.settings import SettingsError, load
from streams.cli.filters import Filters
from streams.cli.observe import Selection, Shown, follow, last_matching, parse_since, read_range
from streams.cli.table import FlowTable
from streams.cli.terminal import INTERRUPTED, PipeConsole, leave_stdout
from streams.kafka.connection import ReadError
from streams.kafka.reading import TopicReader
from streams.settings import Settings

_LAST: Final = 20


def _many(*names: str, **options: Any) -> Callable[[Any], Any]:
    return click.option(*names, multiple=True, **options)


@click.command()
@_many("-n", "--namespace", "namespaces", help="Namespace of either end.")
@_many("--pod", "pods", help="Pod at either end: NAME or NAMESPACE/NAME.")
@_many("--from", "sources", help="End that the packets came from: a pod, or an address.")
@_many("--to", "destinations", help="End that the packets went to: a pod, or an address.")
@_many("--verdict", "verdicts", type=click.Choice(["allow", "deny", "audit"]), help="What was decided.")
@_many("--direction", "directions", type=click.Choice(["ingress", "egress"]), help="As the pod sees it that decided.")
@_many("--port", "ports", type=click.IntRange(0, 65535), help="Destination port, or the port that was dialled.")
@_many("--protocol", "protocols", help="tcp, udp, sctp, icmp, icmpv6, or an IANA number.")
@_many("-l", "--label", "labels", help="KEY=VALUE or KEY: a label of either end.")
@_many("--policy", "policies", help="Policy that decided or isolates the pod: NAME or NAMESPACE/NAME.")
@_many("--reason", "reasons", help="Why it was decided so: policy, default_deny, node, ...")
@_many("--except-reason", "except_reasons", help="Reason to leave out; node is mostly the kubelet's probes.")
@click.option(
    "-o",
    "--output",
    type=click.Choice(["table", "json"]),
    default="table",
    show_default=True,
    help="A table, or the records as they are on Kafka, one on a line.",
)
@click.option("--since", help="Show flows from this time on: 90s, 5m, 2h, 3d ago, or an RFC 3339 time.")
@click.option(
    "--last", type=click.IntRange(0), help=f"Show the last N flows that fit. [{_LAST}, unless --since or -f is given]"
)
@click.option("-f", "--follow", "following", is_flag=True, help="Then show flows as they arrive, until Ctrl-C.")
@click.option("--kafka", help="Kafka bootstrap servers. [WEIR_KAFKA, else 127.0.0.1:9092]")
@click.option("--topic-prefix", "prefix", help="Prefix of the topics. [WEIR_TOPIC_PREFIX, else kubeweir]")
def observe(
    output: str,
    since: str | None,
    last: int | None,
    following: bool,
    kafka: str | None,
    prefix: str | None,
    **fields: Sequence[Any],
) -> None:
    """Show flows: who talked to whom, what was decided, and by which policies.

    An option that is given twice shows both: --port 80 --port 443. Different options narrow the choice down. In names,
    * stands for any text.
    """
    env = {**os.environ, **{k: v for k, v in (("WEIR_KAFKA", kafka), ("WEIR_TOPIC_PREFIX", prefix)) if v}}
    try:
        settings = load(Settings, env)
        connection = settings.connection()
        start = parse_since(since, datetime.now(UTC)) if since else None
    except (SettingsError, ValueError) as error:
        raise click.UsageError(str(error)) from error
    if start is not None and last is not None:
        raise click.UsageError("--since and --last cannot be used together: choose one")
    try:
        reader = TopicReader(connection, settings.topics.flows.name)
        _show(reader, Filters(**fields), _writer(output), start, last, following=following)
    except ReadError as error:
        click.echo(f"weir: {error}", err=True)
        sys.exit(Exit.UNEXPECTED)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        leave_stdout()
        sys.exit(Exit.OK)


def _show(
    reader: TopicReader,
    filters: Filters,
    write: Callable[[Shown], None],
    since: datetime | None,
    last: int | None,
    *,
    following: bool,
) -> None:
    ends = {partition: end for partition, (_, end) in reader.bounds().items()}
    shown = 0
    if since is not None:
        start = reader.at_time(int(since.timestamp() * 1000))
        if following:
            ends = start
        else:
            selection = Selection(filters)
            for record in read_range(reader, start, ends):
                flow = selection.pick(record.value)
                if flow is not None:
                    write(flow)
                    shown += 1
    elif last is not None or not following:
        for flow in last_matching(reader, filters, _LAST if last is None else last):
            write(flow)
            shown += 1
    if following:
        follow(reader, ends, filters, write)
    elif not shown:
        click.echo("weir: no flows match", err=True)


def _writer(output: str) -> Callable[[Shown], None]:
    if output == "table":
        return FlowTable(PipeConsole(highlight=False)).write

    def write(shown: Shown) -> None:
        sys.stdout.buffer.write(shown.value + b"\n")
        sys.stdout.buffer.flush()

    return write
