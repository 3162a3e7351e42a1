"""`weir observe`: show the flows that fit some filters, past ones and as they arrive."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import click

from enrich.runtime.console import leave_stdout
from enrich.runtime.process import Exit
from enrich.runtime.settings import SettingsError, load
from streams.cli.filter_options import read_filters
from streams.cli.filters import Filters
from streams.cli.kafka_failure import end, needs_to_read
from streams.cli.limited import LimitedLines
from streams.cli.observe import Shown, follow, last_of_all, parse_since, since_matching
from streams.cli.table import FlowTable
from streams.cli.terminal import PipeConsole
from streams.kafka.connection import Connection, NoTopicError, ReadError, checked
from streams.kafka.reading import TopicReader
from streams.settings import Settings

_LAST: Final = 20


def _many(*names: str, **options: Any) -> Callable[[Any], Any]:
    return click.option(*names, multiple=True, **options)


def _choice(*words: str) -> click.Choice[str]:
    return click.Choice(words, case_sensitive=False)


@click.command()
@_many("-n", "--namespace", "namespaces", help="Namespace of either end.")
@_many("--pod", "pods", help="Pod at either end: NAME or NAMESPACE/NAME.")
@_many("--from", "sources", help="End that the packets came from: a pod, an address, or a network.")
@_many("--to", "destinations", help="End that the packets went to: a pod, an address, or a network.")
@_many("--verdict", "verdicts", type=_choice("allow", "deny", "audit"), help="What was decided.")
@_many("--direction", "directions", type=_choice("ingress", "egress"), help="As the pod sees it that decided.")
@_many("--port", "ports", type=click.IntRange(0, 65535), help="Destination port, or the port that was dialled.")
@_many("--protocol", "protocols", help="tcp, udp, sctp, icmp, icmpv6, or an IANA number.")
@_many("-l", "--label", "labels", help="KEY=VALUE or KEY: a label of either end.")
@_many("--cluster", "clusters", envvar="WEIR_CLUSTER", help="Cluster, where several share the topics. [WEIR_CLUSTER]")
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
    * stands for any text. Denies and audits that are no longer among all flows are read from the topic that keeps them
    for longer. Times are UTC; that of another day than today has its date. A line says what a node has not logged
    because of WEIR_LIMIT_ALLOWED or WEIR_LIMIT_DENIED.

    \b
    Exit 0: flows were shown, or none match. 1: Kafka cannot be read. 2: the command is wrong.
    """
    env = {**os.environ, **{k: v for k, v in (("WEIR_KAFKA", kafka), ("WEIR_TOPIC_PREFIX", prefix)) if v}}
    now = datetime.now(UTC)
    try:
        settings = load(Settings, env)
        connection = checked(settings.connection())
        filters = read_filters(fields)
        start = parse_since(since, now) if since else None
    except (SettingsError, ValueError) as error:
        raise click.UsageError(str(error)) from error
    if start is not None and last is not None:
        raise click.UsageError("--since and --last cannot be used together: choose one")
    if start is not None and start > now and not following:
        raise click.UsageError(f"--since {since} is in the future, where no flows are; with -f it waits for them")
    try:
        readers = [TopicReader(connection, settings.topics.flows.name)]
        if not filters.verdicts or set(filters.verdicts) & {"deny", "audit"}:
            readers += _reader_of_denies(connection, settings.topics.denied.name)
        limited = _limited_lines(connection, settings.topics.status.name, filters, output)
        _show(readers, limited, filters, _writer(output), start, last, following=following)
    except ReadError as error:
        end(error, connection, needs_to_read(settings.topics.flows.name))
    except BrokenPipeError:
        leave_stdout()
        sys.exit(Exit.OK)


def _reader_of_denies(connection: Connection, topic: str) -> list[TopicReader]:
    """Return a reader of the denies that are kept for longer, if there are any.

    Without a right to read them, all other flows are still shown."""
    try:
        return [TopicReader(connection, topic)]
    except NoTopicError:
        # A copy of the flows may be without the topic that keeps denies and audits for longer.
        return []
    except ReadError as error:
        click.echo(f"weir: denies that are no longer among all flows are missing here: {error}", err=True)
        return []


def _limited_lines(connection: Connection, topic: str, filters: Filters, output: str) -> LimitedLines | None:
    """Return what shows the verdicts that limits have cut; without a right to read them, flows are still shown."""
    try:
        reader = TopicReader(connection, topic)
    except NoTopicError:
        # A copy of the flows may be without it, as of that of denies.
        return None
    except ReadError as error:
        click.echo(f"weir: what limits have cut is missing here: {error}", err=True)
        return None
    # JSON has nothing but records, for programs.
    return LimitedLines(reader, filters.clusters, lambda line: click.echo(line, err=output == "json"))


def _show(
    readers: Sequence[TopicReader],
    limited: LimitedLines | None,
    filters: Filters,
    write: Callable[[Shown], None],
    since: datetime | None,
    last: int | None,
    *,
    following: bool,
) -> None:
    ends = [{partition: end for partition, (_, end) in reader.bounds().items()} for reader in readers]
    flows: Iterable[Shown] = ()
    if since is not None:
        flows = since_matching(readers, ends, filters, since)
    elif last is not None or not following:
        flows = last_of_all(readers, filters, _LAST if last is None else last)
    shown, first = 0, since
    limited_ends = limited.ends() if limited else {}
    for flow in flows:
        write(flow)
        shown += 1
        first = first or datetime.fromisoformat(flow.flow.timestamp)
    if limited and first is not None:
        limited.show_past(first, limited_ends)
    if following:
        if limited:
            limited.follow_from(limited_ends)
        follow(readers[0], ends[0], filters, write, limited.show_new if limited else lambda: None)
    elif not shown:
        click.echo("weir: no flows match", err=True)


def _writer(output: str) -> Callable[[Shown], None]:
    if output == "table":
        return FlowTable(PipeConsole(highlight=False)).write

    def write(shown: Shown) -> None:
        sys.stdout.buffer.write(shown.value + b"\n")
        sys.stdout.buffer.flush()

    return write
