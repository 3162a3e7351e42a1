"""Adds pairs up to a map: which workload talked to which, and what was decided, step by step of a window of time.

A connection inside the cluster is decided at both ends, and so are its counts: they are verdicts, not connections.
Names come from a topic: there may be any number of them, so all that is kept has a bound. Beyond the bounds the map
gets coarser, and says so; it never leaves a verdict out.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import msgspec

from enrich.render.template import ICMP, PROTOCOLS
from enrich.wire.pair import HOUR_NS, Pair, PairEnd

MAX_STEPS: Final = 48
MAX_EDGES: Final = 20_000
"""Beyond, the map has namespaces instead of workloads."""
MAX_OUTSIDE: Final = 300
"""Networks outside the cluster that have a place of their own."""
MAX_DETAILS: Final = 12
"""Different ports, reasons and policies that are kept of what one end sends to another."""
VERDICTS: Final = ("deny", "audit", "allow", "unknown")
_MAX_NUMBER: Final = (1 << 53) - 1
"""What JavaScript counts exactly."""
_STEP_HOURS: Final = (1, 2, 3, 4, 6, 8, 12, 24, 48, 72, 168, 336, 720)
_ALL: Final = ""


class TooWideError(Exception):
    """Even the namespaces are more than a map can have; the message says so."""


class Place(NamedTuple):
    """A node of the map."""

    kind: str
    """``workload``, ``bare`` (pods that nothing runs), ``node``, ``outside``, or ``unknown``."""
    namespace: str
    name: str
    """``KIND/NAME`` of a workload, a node's name, a network; empty for all others of the kind."""


class Detail(msgspec.Struct, frozen=True, array_like=True):
    """One port, decided in one way."""

    direction: str
    port: str
    verdict: str
    reason: str
    policies: tuple[str, ...]
    verdicts: int


class Edge(msgspec.Struct, frozen=True, array_like=True):
    """What one end sent to another."""

    source: int
    destination: int
    """Indices of places."""
    counts: list[tuple[int, ...]]
    """For each step that has verdicts: its number, then how many there were of each of VERDICTS."""
    details: list[Detail]
    other_details: int
    """Verdicts that are in none of the details."""


class Steps(NamedTuple):
    """A window in steps of whole hours."""

    begins_hour: int
    hours: int
    """The length of one step."""
    number: int

    def of(self, hour: int) -> int:
        """Return the step of an hour; the last one for what is later."""
        return max(0, min((hour - self.begins_hour) // self.hours, self.number - 1))


def steps_of(since_ns: int, until_ns: int) -> Steps:
    """Return the steps of a window, which are as short as MAX_STEPS allows."""
    begins, ends = since_ns // HOUR_NS, max(since_ns, until_ns - 1) // HOUR_NS + 1
    least = -(-(ends - begins) // MAX_STEPS)
    hours = next((one for one in _STEP_HOURS if one >= least), least)
    return Steps(begins, hours, -(-(ends - begins) // hours))


class _Sum:
    """What is known of an edge."""

    def __init__(self, steps: int) -> None:
        self.counts = array("Q", bytes(8 * steps * len(VERDICTS)))
        self.details: dict[tuple[Any, ...], int] = {}
        self.others = 0

    def add_detail(self, key: tuple[Any, ...], count: int) -> None:
        if key in self.details or len(self.details) < MAX_DETAILS:
            self.details[key] = min(self.details.get(key, 0) + count, _MAX_NUMBER)
        else:
            self.others = min(self.others + count, _MAX_NUMBER)

    def add(self, other: _Sum) -> None:
        for at, count in enumerate(other.counts):
            self.counts[at] = min(self.counts[at] + count, _MAX_NUMBER)
        for key, count in other.details.items():
            self.add_detail(key, count)
        self.others = min(self.others + other.others, _MAX_NUMBER)


class Traffic:
    """Adds pairs up."""

    def __init__(self, steps: Steps, max_edges: int = MAX_EDGES, max_outside: int = MAX_OUTSIDE) -> None:
        self._steps, self._max_edges, self._max_outside = steps, max_edges, max_outside
        self._edges: dict[tuple[Place, Place], _Sum] = {}
        self._outside: set[str] = set()
        self.is_coarse = False
        """Whether namespaces stand for their workloads."""
        self.has_other_networks = False
        """Whether some networks outside the cluster are shown as one."""

    def add(self, pair: Pair) -> None:
        """Add a pair. Raises TooWideError."""
        key = pair.key
        subject, peer = self._place(key.subject), self._place(key.peer)
        ends = (subject, peer) if key.direction == "egress" else (peer, subject)
        edge = self._edge(ends)
        count = min(pair.verdicts, _MAX_NUMBER)
        at = self._steps.of(pair.hour) * len(VERDICTS) + VERDICTS.index(key.verdict)
        edge.counts[at] = min(edge.counts[at] + count, _MAX_NUMBER)
        edge.add_detail((key.direction, key.protocol, key.port, key.verdict, key.reason, key.policies), count)

    def _edge(self, ends: tuple[Place, Place]) -> _Sum:
        edge = self._edges.get(ends)
        if edge is None:
            if len(self._edges) >= self._max_edges:
                self._coarsen()
                ends = _wide(ends[0]), _wide(ends[1])
            edge = self._edges.setdefault(ends, _Sum(self._steps.number))
        return edge

    def _coarsen(self) -> None:
        if self.is_coarse:
            raise TooWideError("the map of this time has too many namespaces")
        self.is_coarse = True
        fine, self._edges = self._edges, {}
        for (source, destination), edge in fine.items():
            self._edge((_wide(source), _wide(destination))).add(edge)

    def _place(self, end: PairEnd) -> Place:
        if end.namespace:
            kind = "workload" if end.workload else "bare"
            place = Place(kind, end.namespace, end.workload)
        elif end.node:
            place = Place("node", "", end.node)
        elif end.block:
            place = Place("outside", "", self._network(end.block))
        else:
            place = Place("unknown", "", "")
        return _wide(place) if self.is_coarse else place

    def _network(self, block: str) -> str:
        if block not in self._outside:
            if len(self._outside) >= self._max_outside:
                self.has_other_networks = True
                return _ALL
            self._outside.add(block)
        return block

    def places_and_edges(self) -> tuple[list[Place], list[Edge]]:
        """Return the nodes of the map in the order of their names, and the edges, by their indices."""
        places = sorted({place for ends in self._edges for place in ends})
        numbers = {place: number for number, place in enumerate(places)}
        return places, [
            _edge_of(numbers, ends, edge) for ends, edge in sorted(self._edges.items(), key=lambda one: one[0])
        ]


def _wide(place: Place) -> Place:
    """Return the node that stands for all of a namespace, or of a kind."""
    return Place("workload" if place.namespace else place.kind, place.namespace, _ALL)


def _edge_of(numbers: Mapping[Place, int], ends: tuple[Place, Place], edge: _Sum) -> Edge:
    width = len(VERDICTS)
    counts = [
        (at // width, *edge.counts[at : at + width])
        for at in range(0, len(edge.counts), width)
        if any(edge.counts[at : at + width])
    ]
    details = [
        Detail(direction, _port_text(protocol, port), verdict, reason,
               tuple(f"{one.namespace}/{one.name}" if one.namespace else one.name for one in policies), count)
        for (direction, protocol, port, verdict, reason, policies), count in edge.details.items()
    ]  # fmt: skip
    details.sort(key=lambda one: (VERDICTS.index(one.verdict), -one.verdicts, one.port))
    return Edge(numbers[ends[0]], numbers[ends[1]], counts, details, edge.others)


def _port_text(protocol: int, port: int) -> str:
    name = PROTOCOLS.get(protocol, str(protocol)) if protocol else ""
    if protocol in ICMP:
        return f"{name} {port >> 8}"
    return f"{port}/{name}" if port else name
