"""What `weir status` prints: a table of the nodes' sums, and below it what needs attention."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final, NamedTuple

from streams.cli.custody import NodeCustody, Problem, in_all, time_text
from streams.cli.custody_sums import STAGES, Sums
from streams.cli.terminal import listed, table_lines
from streams.kafka.group_positions import GroupPosition

HEADINGS: Final = (
    "NODE", "AS OF", "DECIDED", "WRITTEN", "CUT", "LOST", "WAITING", "VERDICTS", "READ", "MISSING", "ENRICHED", "DEAD",
    "FLOWS", "ALERTS",
)  # fmt: skip
_NAMED_WORKERS: Final = 10
_UNITS: Final = (
    "Decisions are allowed connections and denied packets: DECIDED = WRITTEN + CUT + LOST + WAITING (in deny windows).",
    "A verdict may count many of them: VERDICTS = READ + MISSING, and READ = FLOWS + ALERTS (for alerts only) + DEAD.",
)

_NamedNodes = Sequence[tuple[str, NodeCustody]]
"""The nodes, and how each is called: with its cluster if there are several."""


class Refusal(NamedTuple):
    """Why records are dead letters."""

    output: str
    """The consumer group of the sink, or the topic, that refused them; empty if workers could not make records."""
    reason: str


class Failure(NamedTuple):
    """A topic of routes that cannot be made or written, so that its records are dropped."""

    at: float
    error: str


class SeenWorker(NamedTuple):
    """A worker that has written a tally."""

    worker: str
    version: str
    """Empty if it is an earlier one, which does not say it."""
    at: float


class LostReports(NamedTuple):
    """Of which node reports of connections are lost, and why."""

    cluster: str
    node: str
    reason: str


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that `weir status` has found."""

    start: float
    end: float
    nodes: Sequence[NodeCustody]
    problems: Sequence[Problem]
    """Those of all nodes."""
    positions: Sequence[GroupPosition] = ()
    refusals: Mapping[Refusal, int] = field(default_factory=dict)
    """How many dead letters came in the window."""
    unknown: Sequence[str] = ()
    """What could not be read, and why."""
    failed_routes: Mapping[str, Failure] = field(default_factory=dict)
    """By topic, the last one in the window."""
    workers: Sequence[SeenWorker] = ()
    lost_ends: Mapping[LostReports, int] = field(default_factory=dict)
    """How many reports of connections were lost in the window."""

    @property
    def adds_up(self) -> bool:
        """Whether nothing is missing without a reason, and every node was heard of."""
        return bool(self.nodes) and not self.problems

    @property
    def dead_letters(self) -> dict[str, int]:
        """How many dead letters came in the window, by reason."""
        found = Counter[str]()
        for refusal, count in self.refusals.items():
            found[refusal.reason] += count
        return dict(found)

    def refused_by(self, output: str) -> int:
        """Return how many records a sink or a topic has refused in the window."""
        return sum(count for refusal, count in self.refusals.items() if refusal.output == output)


def as_json(report: Report) -> dict[str, Any]:
    """Return the report as an object; docs/status.md explains it."""
    return {
        "schema": 1,
        "from": time_text(report.start),
        "to": time_text(report.end),
        "adds_up": report.adds_up,
        "problems": [asdict(one) for one in report.problems],
        "total": _sums_json(in_all(report.nodes)),
        "nodes": [
            {
                "cluster": node.cluster,
                "node": node.node,
                "as_of": time_text(node.at),
                "silent": node.is_silent,
                "stages": _sums_json(node.sums),
                "state": {name: getattr(node.state, name) for name in node.state.__struct_fields__},
            }
            for node in report.nodes
        ],
        "workers": [
            {"worker": one.worker, "version": one.version, "as_of": time_text(one.at)} for one in report.workers
        ],
        "consumers": [{**asdict(one), "refused": report.refused_by(one.group)} for one in report.positions],
        "refusals": [{**one._asdict(), "count": count} for one, count in sorted(report.refusals.items()) if one.output],
        "failed_routes": [
            {"topic": topic, "error": one.error, "at": time_text(one.at)}
            for topic, one in sorted(report.failed_routes.items())
        ],
        "lost_ends": [{**one._asdict(), "reports": count} for one, count in sorted(report.lost_ends.items())],
        "dead_letters": report.dead_letters,
        "unknown": list(report.unknown),
    }


def as_text(report: Report) -> Iterator[str]:
    """Yield the lines of the report."""
    yield f"{time_text(report.start)} to {time_text(report.end)}"
    yield ""
    nodes = _named_nodes(report)
    rows = [HEADINGS, *(_row(name, _as_of(node), node.sums) for name, node in nodes)]
    if len(nodes) > 1:
        rows.append(_row("in all", "", in_all(report.nodes)))
    yield from table_lines(rows, range(2, len(HEADINGS)))
    yield ""
    yield from _UNITS
    yield from _section("Where the rest is", _reasons(nodes))
    lost = [f"{one.node}: {count:,} by {one.reason}" for one, count in sorted(report.lost_ends.items())]
    yield from _section("Reports of connections (WEIR_ENDS) that are lost", lost)
    yield from _section("Nodes", _states(nodes))
    yield from _section("Not enforced", _unenforced(nodes))
    yield from _section("Annotations that ask for nothing, because their value is not 'true'", _annotations(report))
    yield from _section("Workers", _workers(report))
    yield from _section("Sinks and routes", _positions(report))
    failed = [f"{topic}: {one.error} (at {time_text(one.at)})" for topic, one in sorted(report.failed_routes.items())]
    yield from _section("Routes that drop records, because their topic cannot be made or written", failed)
    letters = [_letters(*one) for one in sorted(report.refusals.items())]
    yield from _section("Dead letters in this time (weir dead list)", letters)
    yield from _section("Not known", report.unknown)
    yield from _section("Does not add up", _problems(report))
    yield ""
    if not report.nodes:
        yield "No node has given a tally in this time."
    elif report.adds_up and report.unknown:
        yield "All decisions of these nodes are accounted for. Not all is known, see above."
    elif report.adds_up:
        yield "All decisions are accounted for."
    else:
        count = len(report.problems)
        yield f"Not all is accounted for: {count} problem{'s' * (count > 1)}, see above."


def _named_nodes(report: Report) -> _NamedNodes:
    several = len({node.cluster for node in report.nodes}) > 1
    return [(_name(node, several), node) for node in report.nodes]


def _name(one: NodeCustody | Problem, several: bool) -> str:
    return f"{one.cluster}/{one.node}" if several else one.node


def _as_of(node: NodeCustody) -> str:
    """Return when a node was last heard of: the time of the day, or all of it if that may be another day."""
    return time_text(node.at) if node.is_silent else time_text(node.at)[11:19]


def _row(name: str, at: str, sums: Sums) -> tuple[str, ...]:
    kernel, arrival, enriched, flows = (sums[stage].parts for stage in ("kernel", "arrival", "enrichment", "flows"))
    missing = sum(count for reason, count in arrival.items() if reason != "read")
    counts = (
        sums["kernel"].value, kernel.get("written", 0), _sum(kernel, "cut:"), _sum(kernel, "lost:"),
        kernel.get("waiting", 0), sums["arrival"].value, arrival.get("read", 0), missing,
        enriched.get("enriched", 0), enriched.get("dead", 0) + flows.get("refused", 0), flows.get("written", 0),
        flows.get("unlogged", 0),
    )  # fmt: skip
    return (name, at, *(f"{count:,}" for count in counts))


def _sum(parts: dict[str, int], prefix: str) -> int:
    return sum(count for name, count in parts.items() if name.startswith(prefix))


def _reasons(nodes: _NamedNodes) -> Iterator[str]:
    for name, node in nodes:
        spooled = node.sums["spool"].parts.get("waiting", 0)
        found = {**node.sums["kernel"].parts, **node.sums["arrival"].parts, "in the spool": spooled}
        named = [f"{part.replace(':', ' by ')} {count:,}" for part, count in found.items()
                 if count and part not in ("written", "waiting", "read")]  # fmt: skip
        if named:
            yield f"{name}: {', '.join(named)}"


def _states(nodes: _NamedNodes) -> Iterator[str]:
    rows = [("NODE", "VERSION", "OLDEST WATCH", "NOT ENFORCED", "FULLEST MAP")]
    for name, node in nodes:
        state = node.state
        kind, age = max(state.watch.items(), key=lambda one: one[1], default=("", 0.0))
        table, (used, fit) = max(
            state.capacity.items(), key=lambda one: one[1][0] / max(one[1][1], 1), default=("", (0, 0))
        )
        watch = f"{kind} {age:.0f} s" if kind else "-"
        fullest = f"{table} {used:,} of {fit:,}" if table else "-"
        rows.append((name, state.version or "-", watch, f"{state.unenforced_pods:,}", fullest))
    if len(rows) > 1:
        yield from table_lines(rows)


def _unenforced(nodes: _NamedNodes) -> Iterator[str]:
    for name, node in nodes:
        yield from (f"{name}: {pod}: {reason}" for pod, reason in node.state.unenforced.items())


def _annotations(report: Report) -> list[str]:
    """Return each annotation once: every node sees the same objects."""
    found = {what: value for node in report.nodes for what, value in node.state.suspicious.items()}
    return [f"{what}: {value!r}" for what, value in sorted(found.items())]


def _workers(report: Report) -> Iterator[str]:
    """Yield which versions the workers have, with the workers of each."""
    for version in sorted({one.version for one in report.workers}):
        names = sorted(one.worker for one in report.workers if one.version == version)
        yield f"{version or 'an earlier version'}: {listed(names, _NAMED_WORKERS)}"


def _letters(refusal: Refusal, count: int) -> str:
    by = f", refused by {refusal.output}" if refusal.output else ""
    return f"{refusal.reason}: {count:,}{by}"


def _positions(report: Report) -> Iterator[str]:
    rows = [("GROUP", "TOPIC", "COMMITTED", "WAITING", "REFUSED")]
    for one in report.positions:
        counts = (one.error, "") if one.error else (f"{one.committed:,}", f"{one.waiting:,}")
        rows.append((one.group, one.topic, *counts, f"{report.refused_by(one.group):,}"))
    if len(rows) > 1:
        yield from table_lines(rows, range(2, len(rows[0])))


def _problems(report: Report) -> Iterator[str]:
    several = len({*(one.cluster for one in report.nodes), *(one.cluster for one in report.problems)}) > 1
    for one in report.problems:
        yield f"{_name(one, several)}: {one.stage}: {one.reason}: {one.text}"


def _section(title: str, lines: Iterable[str]) -> Iterator[str]:
    found = list(lines)
    if found:
        yield ""
        yield f"{title}:"
        yield from (f"  {line}" for line in found)


def _sums_json(sums: Sums) -> dict[str, Any]:
    return {
        stage: {"total": list(sums[stage].total), **sums[stage].parts, "unaccounted": sums[stage].missing}
        for stage in STAGES
    }
