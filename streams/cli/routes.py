"""`weir routes`: check a file of routes, and try it on records."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Final, NoReturn

import click
import msgspec
import orjson

from enrich.runtime.process import Exit
from enrich.wire.topics import topics
from streams.matching.matcher import Matcher
from streams.routes.model import Routes
from streams.routes.read import RoutesError, read

_UNTAKEN: Final = 1
_FILE: Final = click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
_PREFIX: Final = click.option(
    "--topic-prefix", "prefix", envvar="WEIR_TOPIC_PREFIX", default="kubeweir", show_default=True
)


@click.group()
def routes() -> None:
    """Check a file of routes, or try it on records."""


@routes.command()
@_FILE
@_PREFIX
def check(file: Path, prefix: str) -> None:
    """Check FILE; every mistake with line and field.

    \b
    Exit 0: good. 2: not.
    """
    found = _read(file, prefix)
    outputs = sum(len(route.outputs) for route in found.routes)
    click.echo(f"{file}: good: {len(found.routes)} routes with {outputs} outputs")


@routes.command("try")
@_FILE
@_PREFIX
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
def try_(file: Path, prefix: str, output: str) -> None:
    """Say of each record on the standard input which routes of FILE take it, and why the others do not.

    A record is one JSON object a line, as on kubeweir.flows and from `weir observe -o json`.

    \b
    Exit 0: every record is taken by some route. 1: some are by none. 2: FILE, or a record, is wrong.
    """
    matchers = [Matcher(route) for route in _read(file, prefix).routes]
    untaken = False
    try:
        for number, line in enumerate(_lines(sys.stdin.buffer), 1):
            taken, missed = _answer(matchers, line, number)
            untaken = untaken or not taken
            _show(line, taken, missed, output)
    except BrokenPipeError:
        # Nobody reads it any more; Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(_UNTAKEN if untaken else Exit.OK)


def _read(file: Path, prefix: str) -> Routes:
    try:
        return read(file.read_bytes(), str(file), (topic.name for topic in topics(prefix, 1)))
    except OSError as error:
        _wrong(f"{file}: {error.strerror}")
    except RoutesError as error:
        _wrong(str(error))


def _wrong(text: str) -> NoReturn:
    click.echo(text, err=True)
    sys.exit(Exit.USAGE)


def _lines(stream: BinaryIO) -> Iterator[bytes]:
    return (line for line in stream if line.strip())


def _answer(matchers: list[Matcher], line: bytes, number: int) -> tuple[list[str], dict[str, str]]:
    """The routes that take a record; the others with why not."""
    try:
        flow = orjson.loads(line)
        missed = {one.name: why for one in matchers if (why := one.why_not(flow)) is not None}
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError, ValueError) as error:
        _wrong(f"line {number} is no record: {type(error).__name__}: {error}")
    return [one.name for one in matchers if one.name not in missed], missed


def _show(line: bytes, taken: list[str], missed: dict[str, str], output: str) -> None:
    flow = orjson.loads(line)
    if output == "json":
        click.echo(msgspec.json.encode({"id": flow.get("id"), "taken": taken, "missed": missed}))
        return
    connection = flow["connection"]
    port = f":{connection['dest_port']}" if "dest_port" in connection else ""
    click.echo(
        f"{flow.get('id', '?')}  {flow['disposition']} {connection['direction']} {_end(flow, 'src')} -> "
        f"{_end(flow, 'dest')}{port}"
    )
    for name in taken:
        click.echo(f"  takes it: {name}")
    for name, why in missed.items():
        click.echo(f"  does not: {name}: {why}")


def _end(flow: Any, side: str) -> str:
    end = flow[side]
    if end.get("pod_name"):
        return f"{end.get('namespace', '')}/{end['pod_name']}"
    return str(flow["connection"].get(f"{side}_ip") or end.get("node_name") or "-")
