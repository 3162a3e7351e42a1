"""`weir status`: whether every decision of the kernels is on the topic of flows, or where the rest is."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Final

import click
import msgspec

from enrich.runtime.console import leave_stdout
from enrich.runtime.process import Exit
from enrich.runtime.settings import SettingsError
from streams.cli.custody import NodeKey, Tallies
from streams.cli.custody_sums import Heard, decode_failed_route, decode_lost_ends, decode_tally
from streams.cli.custody_text import Failure, LostReports, Refusal, Report, SeenWorker, as_json, as_text
from streams.cli.dead_letters import letter_of
from streams.cli.kafka_failure import end, needs_to_read
from streams.cli.kafka_options import chosen_cluster, cluster_option, kafka_options, read_settings
from streams.cli.terminal import printable
from streams.kafka.connection import Connection, NoTopicError, ReadError
from streams.kafka.consumer_groups import group_names
from streams.kafka.group_positions import GroupPosition, group_positions
from streams.kafka.ranges import read_range
from streams.kafka.reading import TopicReader
from streams.kafka.records import Record
from streams.observing.observe import parse_since
from streams.settings import Settings
from streams.worker.checkpoint import MERGED_RECORDS, newest

_BEFORE_S: Final = 120.0
"""How long before the window reading begins, so that the last tally of each node before it is found."""
_MAX_OUTPUT: Final = 300
_MAX_REFUSALS: Final = 1000
_MAX_WORKERS: Final = 10_000
_MAX_LOST_REPORTS: Final = 20_000
"""Whoever may write to the topics may invent outputs, reasons and workers."""


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
    read = _StatusTopic(start, is_chosen)
    for record in _read(connection, names.status.name, start - _BEFORE_S):
        read.add(record)
    tallies, seen, refusals, positions = read.tallies, {}, Counter[Refusal](), list[GroupPosition]()
    try:
        found = _last_seen(connection, names.checkpoints.name, settings.prefix)
        seen = {key: at for key, at in found.items() if is_chosen(key)}
    except ReadError as error:
        unknown.append(f"whether there are nodes that were not heard of in all this time: {error}")
    try:
        for record in _read(connection, names.dead.name, start):
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


class _StatusTopic:
    """What the records of the status topic say, in their order."""

    def __init__(self, start: float, is_chosen: Callable[[NodeKey], bool]) -> None:
        self._start, self._is_chosen = start, is_chosen
        self.tallies = Tallies(start)
        self.failed_routes: dict[str, Failure] = {}
        """The last failure of each topic of routes."""
        self.workers: dict[str, SeenWorker] = {}
        self.lost_ends = Counter[LostReports]()

    def add(self, record: Record) -> None:
        """Take a record, of any type."""
        # Whoever writes a record chooses its time, and may choose one that no date can have.
        at = min(max(record.timestamp_ms / 1000, 0.0), time.time())
        with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            self._add_tally(Heard(at, decode_tally(record.value)))
            return
        with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            failed = decode_failed_route(record.value)
            if at >= self._start and self._is_chosen((failed.cluster, "")):
                self.failed_routes[failed.reason] = Failure(at, failed.error)
            return
        with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            lost = decode_lost_ends(record.value)
            key = LostReports(lost.cluster, lost.node, lost.reason)
            if (
                at >= self._start
                and self._is_chosen(key[:2])
                and (key in self.lost_ends or len(self.lost_ends) < _MAX_LOST_REPORTS)
            ):
                self.lost_ends[key] += lost.reports

    def _add_tally(self, heard: Heard) -> None:
        found = heard.record
        if self._is_chosen((found.cluster, found.node)):
            self.tallies.add(heard)
            if found.worker and len(self.workers) < _MAX_WORKERS:
                self.workers[found.worker] = SeenWorker(found.worker, found.version, heard.at)


def _read(connection: Connection, topic: str, since: float | None = None) -> Iterator[Record]:
    """Yield the records of a topic from a time on, in seconds since the epoch, to its end. Raises ReadError."""
    with contextlib.closing(TopicReader(connection, topic)) as reader:
        bounds = reader.bounds()
        starts = {partition: first for partition, (first, _) in bounds.items()}
        if since is not None:
            # To Kafka, a negative time means something else.
            starts = reader.at_time(max(0, int(since * 1000)))
        yield from read_range(reader, starts, {partition: end for partition, (_, end) in bounds.items()})


def _cluster_of(key: str, prefix: str) -> str:
    """Return the cluster in the key of a checkpoint, ``PREFIX.CLUSTER.enrich/PARTITION``; empty if there is none."""
    group, _, _ = key.rpartition("/")
    return group.removeprefix(f"{prefix}.").removesuffix("enrich").removesuffix(".")


def _last_seen(connection: Connection, topic: str, prefix: str) -> dict[NodeKey, float]:
    """Return when workers finished the last batch of each node that checkpoints know. Raises ReadError."""
    found: dict[bytes, deque[bytes]] = {}
    try:
        for record in _read(connection, topic):
            if record.value:
                found.setdefault(record.key, deque(maxlen=MERGED_RECORDS)).append(record.value)
    except NoTopicError:
        return {}  # no worker has committed anything yet
    seen: dict[NodeKey, float] = {}
    for key, values in found.items():
        checkpoint, cluster = newest(values), _cluster_of(key.decode(errors="replace"), prefix)
        for ring in checkpoint.rings if checkpoint else ():
            node = (cluster, ring.node)
            seen[node] = max(seen.get(node, 0.0), float(ring.seen))
    return seen
