"""`weir routes`: check a routes file, try it on records, and tidy up the consumer groups of its outputs."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO, Final, NoReturn

import click
import msgspec

from enrich.diagnosis.rights import Needs
from enrich.runtime.console import leave_stdout
from enrich.runtime.process import Exit
from enrich.runtime.settings import SettingsError, load
from enrich.sources.own_cluster import UnknownClusterError, cluster_id_finder
from enrich.sources.source import SourceError
from enrich.wire.flow import Flow, decode_flow
from enrich.wire.topics import topics
from streams.cli.kafka_failure import end
from streams.kafka.connection import ReadError, checked
from streams.kafka.consumer_groups import delete_groups, group_names
from streams.matching.matcher import Matcher
from streams.routes.model import Routes
from streams.routes.outputs import group_prefix, route_sinks
from streams.routes.read import RoutesError, read
from streams.settings import EVERY_CLUSTER, Settings

_NOT_TAKEN: Final = 1
_FILE: Final = click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
_PREFIX: Final = click.option(
    "--topic-prefix",
    "prefix",
    envvar="WEIR_TOPIC_PREFIX",
    default="kubeweir",
    show_default=True,
    help="Prefix of kubeweir's own topics, which a route must not write. [WEIR_TOPIC_PREFIX]",
)


@click.group()
def routes() -> None:
    """Check a routes file, try it on records, or tidy up consumer groups."""


@routes.command()
@_FILE
@_PREFIX
def check(file: Path, prefix: str) -> None:
    """Check the routes file FILE, and print every mistake with its line and field.

    \b
    Exit codes: 0 valid, 2 invalid.
    """
    found = _read(file, prefix)
    outputs = sum(len(route.outputs) for route in found.routes)
    click.echo(f"{file}: valid: {len(found.routes)} routes with {outputs} outputs")


@routes.command("try")
@_FILE
@_PREFIX
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
def try_(file: Path, prefix: str, output: str) -> None:
    """For each record on standard input, print which routes of FILE take it, and why the others do not.

    A record is one JSON object on a line, as on the topic kubeweir.flows and from `weir observe -o json`.

    \b
    Exit 0: each record is taken by some route. 1: some records are not. 2: FILE, or a record, is wrong.
    """
    matchers = [route.matcher() for route in _read(file, prefix).routes]
    exit_code: int = Exit.OK
    try:
        for number, line in enumerate(_lines(sys.stdin.buffer), 1):
            flow, missed = _answer(matchers, line, number)
            taken = [one.name for one in matchers if one.name not in missed]
            exit_code = exit_code if taken else _NOT_TAKEN
            _show(flow, taken, missed, output)
    except BrokenPipeError:
        leave_stdout()
    sys.exit(exit_code)


@routes.command()
@_FILE
@_PREFIX
@click.option("--kafka", help="host:port of a broker. [WEIR_KAFKA]")
@click.option("--delete", is_flag=True, help="Delete the groups that no output of FILE has, with their offsets.")
def groups(file: Path, prefix: str, kafka: str | None, *, delete: bool) -> None:
    """List the consumer groups of this cluster's routes in Kafka, and which of them no output of FILE has any longer.

    The cluster is WEIR_CLUSTER, or the one of WEIR_SOURCE.

    A group keeps its place for an output that comes back under the same name. Kafka forgets it by itself some days
    after its last member has left (offsets.retention.minutes).

    \b
    Exit codes: 0 every group is in use, or was deleted. 1 some are left over, or Kafka cannot be reached. 2 FILE is
    wrong.
    """
    names = [one.name for one in route_sinks(_read(file, prefix))]
    env = {**os.environ, "WEIR_TOPIC_PREFIX": prefix, **({"WEIR_KAFKA": kafka} if kafka else {})}
    try:
        settings = load(Settings, env)
        connection = checked(settings.connection())
        begin = group_prefix(_in_cluster(settings))
        found = group_names(connection, begin)
    except SettingsError as error:
        raise click.UsageError(str(error)) from error
    except ReadError as error:
        end(error, connection, Needs())
    used = {begin + name for name in names}
    unused = [name for name in found if name not in used]
    refused = delete_groups(connection, unused) if delete and unused else {}
    for name in found:
        state = "in use" if name in used else "deleted" if delete else "left over: no output of the file has it"
        click.echo(f"{name}: {f'not deleted: {refused[name]}' if name in refused else state}")
    sys.exit(Exit.UNEXPECTED if refused or (unused and not delete) else Exit.OK)


def _in_cluster(settings: Settings) -> Settings:
    """Return the settings with the cluster's id, which is a part of the groups' names."""
    if settings.cluster:
        return replace(settings, cluster="") if settings.cluster == EVERY_CLUSTER else settings
    try:
        return replace(settings, cluster=cluster_id_finder(settings.source)())
    except (SourceError, UnknownClusterError) as error:
        click.echo(
            f"weir: the cluster is not known, so only groups without one are listed; set WEIR_CLUSTER: {error}",
            err=True,
        )
        return settings


def _read(file: Path, prefix: str) -> Routes:
    try:
        return read(file.read_bytes(), str(file), (topic.name for topic in topics(prefix, 1)))
    except OSError as error:
        _fail(f"{file}: {error.strerror}")
    except RoutesError as error:
        _fail(str(error))


def _fail(text: str) -> NoReturn:
    click.echo(text, err=True)
    sys.exit(Exit.USAGE)


def _lines(stream: BinaryIO) -> Iterator[bytes]:
    return (line for line in stream if line.strip())


def _answer(matchers: list[Matcher], line: bytes, number: int) -> tuple[Flow, dict[str, str]]:
    """Return a record, and the routes that do not take it with the reason."""
    try:
        flow = decode_flow(line)
        return flow, {one.name: why for one in matchers if (why := one.why_not(flow)) is not None}
    except ValueError as error:
        _fail(f"line {number} is not a flow record: {error}")


def _show(flow: Flow, taken: list[str], missed: dict[str, str], output: str) -> None:
    if output == "json":
        click.echo(msgspec.json.encode({"id": flow.id, "taken": taken, "missed": missed}))
        return
    port = f":{flow.connection.dest_port}" if flow.connection.dest_port is not None else ""
    click.echo(f"{flow.id}  {flow.disposition} {flow.direction} {flow.text('src')} -> {flow.text('dest')}{port}")
    for name in taken:
        click.echo(f"  taken by {name}")
    for name, why in missed.items():
        click.echo(f"  not taken by {name}: {why}")
