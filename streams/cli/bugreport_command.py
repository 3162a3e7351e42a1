"""`weir bugreport`: gathers in one file what somebody needs who is to find a fault."""

from __future__ import annotations

import io
import json
import os
import sys
import tarfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import click
import urllib3

from enrich.runtime.console import leave_stdout
from enrich.runtime.process import Exit
from streams.cli.bugreport.parts import addresses, answer, free_texts, pages, settings, versions
from streams.cli.bugreport.redacting import Pseudonyms, hosts
from streams.cli.terminal import printable
from streams.config.url_text import shown

_README: Final = "README.txt"
_PRIVATE: Final = 0o600
Parts = dict[str, Any]
"""Documents and texts by the names of their files: a text is written as it is, everything else as JSON."""


@click.command()
@click.option("--redact", is_flag=True, help="Replace names and addresses by pseudonyms, the same everywhere.")
@click.option(
    "--metrics", "ports", multiple=True, metavar="URL",
    help="A metrics port beside those of this machine: http://127.0.0.1:9701 (kubectl port-forward). Repeatable.",
)  # fmt: skip
@click.option("--file", "path", type=click.Path(dir_okay=False, path_type=Path), help="The file. [by the time, here]")
def bugreport(*, redact: bool, ports: Sequence[str], path: Path | None) -> None:
    """Gather settings, versions, and what doctor, status and metrics say, in a file for anyone who looks for a fault.

    No password, token or key is in it, and no record of a flow. Names of nodes, pods and namespaces are, unless
    --redact is given; then a second file, which you keep, has the name for each pseudonym. Nothing is sent anywhere.

    \b
    Exit 0: the file was written. 2: the command is wrong. 3: the file cannot be written.
    """
    at = datetime.now(UTC)
    path = path or Path(f"kubeweir-bugreport-{at:%Y%m%dT%H%M%SZ}.tar.gz")
    parts = _gathered(os.environ, ports)
    pseudonyms = Pseudonyms()
    if redact:
        parts = _redacted(parts, pseudonyms)
    contents = {name: _encoded(part) for name, part in parts.items()}
    contents = {_README: _readme(contents, at, redact=redact), **contents}
    names = path.with_name(f"{path.name.removesuffix('.tar.gz')}-names.json")
    try:
        _write(path, _archive(contents, at))
        if redact:
            _write(names, json.dumps(pseudonyms.as_dict(), indent=1).encode())
    except OSError as error:
        click.echo(f"weir: {error.filename or path}: {error.strerror}", err=True)
        sys.exit(Exit.UNABLE)
    try:
        click.echo(f"{path}: read it before you give it away. In it:")
        for name, content in contents.items():
            click.echo(printable(f"  {name}  {len(content):,} bytes"))
        if redact:
            click.echo(f"{names}: which name each pseudonym stands for. Keep it.")
    except BrokenPipeError:
        leave_stdout()


def _gathered(env: Mapping[str, str], ports: Sequence[str]) -> Parts:
    parts: Parts = {
        "settings.json": settings(env),
        "versions.json": versions(),
        "doctor.json": answer(("doctor", "-o", "json"), env),
        "status.json": answer(("status", "-o", "json"), env),
    }
    for address in addresses(ports):
        where = shown(address).rpartition("//")[2].replace(":", "-")
        try:
            parts |= {f"{page}/{where}.txt": text for page, text in pages(address)}
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            if address in ports:
                parts[f"metrics/{where}.txt"] = f"cannot be read: {error}\n"
    return parts


def _redacted(parts: Parts, pseudonyms: Pseudonyms) -> Parts:
    given = ",".join(parts["settings.json"].values())
    servers = [one for one in given.split(",") if ":" in one]
    for one in (*hosts(servers), *(_kafka_hosts(parts["doctor.json"]))):
        pseudonyms.learn(one, "host")
    for text in free_texts(parts["settings.json"]):
        pseudonyms.learn(text, "value")
    for name, part in parts.items():
        if name.startswith("metrics/"):
            pseudonyms.learn_metrics(part)
        elif not isinstance(part, str):
            pseudonyms.learn_json(part)
    return {
        pseudonyms.hidden(name): pseudonyms.hidden(part) if isinstance(part, str) else pseudonyms.hidden_json(part)
        for name, part in parts.items()
    }


def _kafka_hosts(found: Any) -> list[str]:
    """Return the hosts of brokers that doctor names, and the nodes."""
    about = [one["about"] for one in found["findings"]] if isinstance(found, dict) else []
    return hosts(one.partition(" ")[2] for one in about if one.startswith(("Kafka ", "node ")))


def _encoded(part: Any) -> bytes:
    return part.encode() if isinstance(part, str) else json.dumps(part, indent=1).encode()


def _readme(contents: Mapping[str, bytes], at: datetime, *, redact: bool) -> bytes:
    names = "replaced by pseudonyms" if redact else "as they are"
    lines = [
        f"kubeweir, weir bugreport, {at:%Y-%m-%dT%H:%M:%SZ}. Names and addresses are {names}.", "",
        "settings.json  the settings in the environment of the command; secrets are left out",
        "versions.json  kubeweir, Python, the system, libraries",
        "doctor.json    weir doctor: what can be reached from there",
        "status.json    weir status: what the nodes have decided, and where it is; map capacity of each node",
        "readyz/        /readyz of each metrics port that answered", "metrics/       /metrics of each",
        "", "A list of texts in place of a document is what a command said that could not answer.", "",
        *contents,
    ]  # fmt: skip
    return ("\n".join(lines) + "\n").encode()


def _archive(contents: Mapping[str, bytes], at: datetime) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in contents.items():
            entry = tarfile.TarInfo(f"kubeweir-bugreport/{name}")
            entry.size, entry.mode, entry.mtime = len(content), _PRIVATE, int(at.timestamp())
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def _write(path: Path, content: bytes) -> None:
    """Write a file that only its owner may read. It must not exist: others could have it open."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, _PRIVATE)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
