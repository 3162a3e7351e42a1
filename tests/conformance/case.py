"""The content of a case's file. It is checked, and its addresses can be mapped to IPv6."""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NamedTuple

import msgspec

from enrich.model import Protocol

_ADDRESS: Final = re.compile(r"^(\d+\.\d+\.\d+\.\d+)(/(\d+))?$")
_PREFIX: Final = 0xFD00 << 112

PortNumber = Annotated[int, msgspec.Meta(ge=1, le=65535)]


class MalformedError(Exception):
    """A file is not a valid case; the message says where and why."""


class Port(msgspec.Struct):
    """A port that a pod or an external serves. If not ``declared``, it is served without being a containerPort."""

    port: PortNumber
    protocol: Literal["TCP", "UDP", "SCTP"]
    name: str | None = None
    declared: bool = True


class PodSpec(msgspec.Struct, rename="camel"):
    """A pod. A pod on the host's network has its node's address."""

    namespace: str
    name: str
    ip: str
    node: str
    labels: dict[str, str] = {}
    host_network: bool = False
    ports: list[Port] = []


class NodeSpec(msgspec.Struct):
    """A node."""

    name: str
    ip: str
    labels: dict[str, str] = {}


class NamespaceSpec(msgspec.Struct):
    """A namespace. Its name is its key in the file."""

    labels: dict[str, str] = {}


class External(msgspec.Struct):
    """A host outside the cluster."""

    name: str
    ip: str
    ports: list[Port] = []


class ClusterSpec(msgspec.Struct):
    """The cluster before the first step."""

    namespaces: dict[str, NamespaceSpec]
    nodes: list[NodeSpec]
    pods: list[PodSpec]
    externals: list[External] = []


class Action(msgspec.Struct):
    """One change of a step."""

    op: Literal["create", "update", "delete"]
    kind: Literal[
        "NetworkPolicy",
        "ClusterNetworkPolicy",
        "AdminNetworkPolicy",
        "BaselineAdminNetworkPolicy",
        "Namespace",
        "Namespace labels",
        "Pod",
        "Pod labels",
    ]
    object: dict[str, Any]


Truth = tuple[str, str, str, bool]
"""Source, destination, port/protocol, allowed."""


class Table(msgspec.Struct):
    """The outcomes of some probes in short form.

    For each source, a string has one character for each destination in ``to``: ``+`` allowed, ``-`` denied, ``.`` not
    part of the case.
    """

    probes: list[str]
    to: list[str]
    sources: Annotated[dict[str, Annotated[str, msgspec.Meta(pattern=r"^[-+.]*$")]], msgspec.Meta(min_length=1)] = (
        msgspec.field(name="from")
    )

    def truth(self) -> Iterator[Truth]:
        """Yield a tuple for each cell that is part of the case. Raises :class:`MalformedError`."""
        for source, marks in self.sources.items():
            if len(marks) != len(self.to):
                raise MalformedError(f"the table of {source!r} has {len(marks)} marks for {len(self.to)} destinations")
            for probe in self.probes:
                for destination, mark in zip(self.to, marks, strict=True):
                    if mark != ".":
                        yield source, destination, probe, mark == "+"


class Expect(msgspec.Struct):
    """The expected outcomes after a step, as tuples or in short form as tables."""

    truth: list[Truth] = []
    host_truth: list[Truth] = []
    tables: list[Table] = []
    host_tables: list[Table] = []


class Step(msgspec.Struct):
    """Changes, and the expected outcomes after them."""

    expect: Expect
    actions: list[Action] = []


class Case(msgspec.Struct):
    """The content of one file."""

    id: str
    cluster: ClusterSpec
    steps: Annotated[list[Step], msgspec.Meta(min_length=1)]


class Row(NamedTuple):
    """A connection and its expected outcome. The ends are "namespace/pod", "ext:name" or "node:name"."""

    source: str
    destination: str
    protocol: Protocol
    port: int
    allowed: bool

    def __str__(self) -> str:
        return f"{self.source} -> {self.destination} {self.port}/{self.protocol.name}"


def rows(expect: Expect) -> Iterator[Row]:
    """Yield every row of a step. Raises :class:`MalformedError`."""
    tables = [cell for table in expect.tables + expect.host_tables for cell in table.truth()]
    truth = [*expect.truth, *expect.host_truth, *tables]
    if not truth:
        raise MalformedError("a step expects nothing")
    for source, destination, probe, allowed in truth:
        port, _, protocol = probe.partition("/")
        if protocol not in Protocol.__members__ or not port.isdecimal() or not 0 < int(port) < 65536:
            raise MalformedError(f"{probe!r} of {source} -> {destination} is not of the form port/protocol")
        yield Row(source, destination, Protocol[protocol], int(port), allowed)


def load(file: Path, family: int) -> Case:
    """Read a case, and map every address to ``family``. Raises :class:`MalformedError`."""
    try:
        document = json.loads(file.read_bytes())
        return msgspec.convert(_mapped(document) if family == 6 else document, Case)
    except ValueError as error:  # also what msgspec raises
        raise MalformedError(str(error)) from error


def _mapped(value: Any) -> Any:
    """Return a value in which each IPv4 address or block is replaced by its IPv6 counterpart."""
    if isinstance(value, Mapping):
        return {key: _mapped(inner) for key, inner in value.items()}
    if isinstance(value, list):
        mapped = [_mapped(inner) for inner in value]
        # A list with 0.0.0.0/0 and ::/0 would have ::/0 twice, which a ClusterNetworkPolicy's networks may not have.
        return list(dict.fromkeys(mapped)) if all(isinstance(one, str) for one in mapped) else mapped
    if isinstance(value, str) and (found := _ADDRESS.match(value)):
        address, slash, bits = found.groups()
        if value == "0.0.0.0/0":
            return "::/0"
        twin = ipaddress.IPv6Address(_PREFIX + int(ipaddress.IPv4Address(address)))
        return f"{twin}/{96 + int(bits)}" if slash else str(twin)
    return value
