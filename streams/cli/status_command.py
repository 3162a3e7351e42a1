"""`weir status`: whether every decision of the kernels is on the topic of flows, or where the rest is."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Collection
from dataclasses import replace
from datetime import UTC, datetime
from typing import Final

import click

from enrich.runtime.console import leave_stdout
from enrich.runtime.process import Exit
from enrich.runtime.settings import SettingsError
from streams.cli.custody import NodeKey
from streams.cli.custody_text import Refusal, Report, as_json, as_text
from streams.cli.dead_letters import letter_of
from streams.cli.kafka_failure import end, needs_to_read
from streams.cli.kafka_options import chosen_cluster, cluster_option, kafka_options, read_settings
from streams.cli.status_topic import TALLY_BEFORE_S, StatusTopic, last_seen, read_since
from streams.cli.terminal import printable
from streams.kafka.connection import Connection, ReadError
from streams.kafka.consumer_groups import group_names
from streams.kafka.group_positions import GroupPosition, group_positions
from streams.observing.observe import parse_since
from streams.settings import Settings

_MAX_OUTPUT: Final = 300
_MAX_REFUSALS: Final = 1000
"""Anyone who may write to the topics may invent outputs and reasons."""


@click.command()
@click.option("--since", default="1h", show_default=True, help="Begin of the window: 90s, 5m, 2h ago, or a time.")
@click.option(
    "--without", multiple=True, metavar="NODE", help="Leave a node out, which is gone on purpose. Repeatable."
)
@cluster_option
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
@kafka_options
def status(
    since: str, without: Collection[str], cluster: str | None, output: str, kafka: str | None, prefix: str | None
) -> None:
    """Say whether everything that the nodes have decided is on the topic of flows, and where the rest is.

    For each node and in all: decisions of the kernel, what of them was written, cut, lost or waits, what arrived, and
    what became a record. docs/status.md explains every number. Times are UTC.

    \b
    Exit 0: all is accounted for. 1: something is missing without a reason, a node was not heard of, or Kafka cannot be
    read. 2: the command is wrong.
    """
    try:
        settings, connection = read_settings(kafka, prefix)
        now = datetime.now(UTC)
        start = parse_since(since, now)
    except (SettingsError, ValueError) as error:
        raise click.UsageError(str(error)) from error
    if start > now:
        raise click.UsageError(f"--since {since} is in the future, of which nothing is known")
    try:
        report = _report(settings, connection, start.timestamp(), chosen_cluster(cluster), without)
        # Whoever may write to a topic, or annotate an object, chooses texts, and a terminal obeys some.
        lines = as_text(report) if output == "text" else [json.dumps(as_json(report))]
        for line in lines:
            click.echo(printable(line))
    except ReadError as error:
        end(error, connection, needs_to_read(settings.topics.status.name))
    except BrokenPipeError:
        leave_stdout()
    sys.exit(Exit.OK if report.adds_up else Exit.UNEXPECTED)


def _report(settings: Settings, connection: Connection, start: float, cluster: str, without: Collection[str]) -> Report:
    """Read what is known. Raises ReadError if the status topic cannot be read; the rest may stay unknown."""

    def is_chosen(key: NodeKey) -> bool:
        return key[0] in (cluster or key[0], "") and key[1] not in without

    names, unknown = settings.topics, []
    read = StatusTopic(start, is_chosen)
    for record in read_since(connection, names.status.name, start - TALLY_BEFORE_S):
        read.add(record)
    tallies, seen, refusals, positions = read.tallies, {}, Counter[Refusal](), list[GroupPosition]()
    try:
        found = last_seen(connection, names.checkpoints.name, settings.prefix)
        seen = {key: at for key, at in found.items() if is_chosen(key)}
    except ReadError as error:
        unknown.append(f"whether there are nodes that were not heard of in all this time: {error}")
    try:
        for record in read_since(connection, names.dead.name, start):
            letter = letter_of(record)
            if not letter.is_mark:
                refusal = Refusal(letter.output[:_MAX_OUTPUT], letter.reason[:64] or "no reason")
                refusals[refusal if len(refusals) < _MAX_REFUSALS else Refusal("", "other")] += 1
    except ReadError as error:
        unknown.append(f"dead letters: {error}")
    try:
        prefix = replace(settings, cluster=cluster).group("")
        topics = (names.raw.name, names.flows.name, names.denied.name)
        positions = group_positions(connection, group_names(connection, prefix), topics)
        if not any(one.topic == names.raw.name for one in positions):
            # Without a right Kafka does not refuse, but leaves groups and topics out.
            unknown.append(
                f"how far workers, sinks and routes have come: Kafka shows no offset of workers in {names.raw.name}; "
                f"only a user with DESCRIBE on that topic and on the groups {prefix} (prefixed) sees all of them"
            )
    except ReadError as error:
        unknown.append(f"how far workers, sinks and routes have come: {error}")
    now = time.time()
    nodes = tallies.nodes(now)
    problems = [*(one for node in nodes for one in node.problems), *tallies.unheard(seen)]
    return Report(
        start, now, nodes, problems, positions, dict(refusals), unknown, read.failed_routes,
        list(read.workers.values()),
        dict(read.lost_ends),
    )  # fmt: skip
