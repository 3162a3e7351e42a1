"""Flows as lines of a table that never ends: a column grows and never shrinks, so that `-f` stays readable."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Final, NamedTuple

from rich.console import Console
from rich.text import Text

from enrich.wire.flow import Flow, Side
from streams.cli.columns import Read, row_of
from streams.cli.terminal import printable
from streams.observing.observe import Shown

HEADINGS: Final = ("TIME", "DIRECTION", "FROM", "TO", "PORT", "VERDICT", "POLICIES")
_WIDTHS: Final = (12, 9, 28, 28, 10, 7, 0)
_FIELD_WIDTHS: Final = {
    "time": 30, "id": 24, "src": 28, "dest": 28, "policy": 28, "workload": 24, "name": 28, "pod": 20, "service": 16,
    "namespace": 12, "node": 10, "ip": 15, "reason": 12, "verdict": 7, "protocol": 8, "cluster": 36, "day": 10,
    "hour": 13, "minute": 16,
}  # fmt: skip
"""How wide the columns of ``--fields`` are at first, by the end of their names."""
_STYLES: Final = {"allow": "green", "deny": "bold red", "audit": "yellow"}


class Layout(NamedTuple):
    """The columns of a table."""

    headings: Sequence[str]
    widths: Sequence[int]
    """How wide each column is at first."""
    cells: Callable[[Flow], Sequence[str]]
    has_time: bool = True
    """Whether the first column is the time of the day."""


class FlowTable:
    """Writes a heading, then a line for each flow. The time of another day than today has its date."""

    def __init__(self, console: Console, layout: Layout | None = None) -> None:
        self._console = console
        self._layout = layout or NORMAL
        self._widths = list(self._layout.widths)
        self._has_heading = False

    def write(self, shown: Shown) -> None:
        """Write one more line, and before the first one the heading."""
        # Whoever may write to the topic chooses texts, and a terminal obeys some.
        cells = [printable(cell) for cell in self._layout.cells(shown.flow)]
        day, _, _ = shown.flow.timestamp.partition("T")
        if self._layout.has_time and day != f"{datetime.now(UTC):%Y-%m-%d}":
            cells = [f"{day} {cells[0]}", *cells[1:]]
        self._widths = [max(width, len(cell)) for width, cell in zip(self._widths, cells, strict=True)]
        self._widths[-1] = 0
        if not self._has_heading:
            self._has_heading = True
            self._line(self._layout.headings, "bold")
        self._line(cells, _STYLES.get(shown.flow.disposition, ""))

    def _line(self, cells: Sequence[str], style: str) -> None:
        text = Text()
        for heading, cell, width in zip(self._layout.headings, cells, self._widths, strict=True):
            coloured = style == "bold" or heading == "VERDICT"
            text.append(cell.ljust(width) if width else cell, style=style if coloured else "")
            text.append("  ")
        text.rstrip()
        # soft_wrap: the terminal wraps a line that is too long, and in a pipe it stays whole.
        self._console.print(text, soft_wrap=True)


def flow_cells(flow: Flow) -> tuple[str, ...]:
    """Return the cells of :data:`HEADINGS` for one record."""
    return (
        _time(flow.timestamp),
        flow.direction,
        _end(flow, "src"),
        _end(flow, "dest"),
        _port(flow),
        flow.disposition if flow.count == 1 else f"{flow.disposition} x{flow.count}",
        _why(flow),
    )


def _wide_cells(flow: Flow) -> tuple[str, ...]:
    time, direction, source, destination, port, verdict, why = flow_cells(flow)
    service = flow.dialled.service.path if flow.dialled and flow.dialled.service else "-"
    return (
        time, flow.node_name, direction, source, _address(flow, "src"), destination, _address(flow, "dest"), port,
        service, verdict, flow.reason, why if flow.policies or flow.isolated_by else "-", flow.id,
    )  # fmt: skip


def _address(flow: Flow, side: Side) -> str:
    """Return address and port of an end."""
    ip, connection = flow.ip(side), flow.connection
    port = connection.src_port if side == "src" else connection.dest_port
    if not ip or port is None:
        return ip or "-"
    return f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"


def _compact_cells(flow: Flow) -> tuple[str, ...]:
    time, _, source, destination, port, verdict, _ = flow_cells(flow)
    return time[:8], verdict, source, destination, port


def _time(timestamp: str) -> str:
    """Return hours to milliseconds of an RFC 3339 time, in UTC as the record has it."""
    return timestamp.partition("T")[2][:12]


def _end(flow: Flow, side: Side) -> str:
    """Return the end as a record names it, and behind an address the node that has it."""
    end, address = flow.end(side), flow.ip(side)
    node = f" ({end.node_name})" if address and end.node_name and not end.pod_name else ""
    return f"{flow.text(side)}{node}"


def _port(flow: Flow) -> str:
    protocol = flow.protocol or "-"
    if flow.connection.dest_port is not None:
        return f"{protocol}/{flow.connection.dest_port}"
    return f"{protocol}/{flow.icmp.type}" if flow.icmp else protocol


def _why(flow: Flow) -> str:
    """Return the policies that decided, else those that isolate the pod, else the reason."""
    if flow.policies:
        return ", ".join(policy.path for policy in flow.policies)
    if flow.isolated_by:
        return "isolated by " + ", ".join(policy.path for policy in flow.isolated_by)
    return flow.reason.replace("_", " ")


NORMAL: Final = Layout(HEADINGS, _WIDTHS, flow_cells)
WIDE: Final = Layout(
    ("TIME", "NODE", "DIRECTION", "FROM", "FROM ADDRESS", "TO", "TO ADDRESS", "PORT", "SERVICE", "VERDICT", "REASON",
     "POLICIES", "ID"),
    (12, 10, 9, 28, 21, 28, 21, 10, 16, 7, 12, 24, 0),
    _wide_cells,
)  # fmt: skip
COMPACT: Final = Layout(("TIME", "VERDICT", "FROM", "TO", "PORT"), (8, 7, 18, 18, 0), _compact_cells)


def layout_of(columns: Mapping[str, Read]) -> Layout:
    """Return the layout that shows some columns, as ``--fields`` names them."""
    names = [name.upper() for name in columns]
    return Layout(
        names,
        [max(len(name), _FIELD_WIDTHS.get(name.lower().rpartition(".")[2], 0)) for name in names],
        lambda flow: [cell or "-" for cell in row_of(columns, flow)],
        has_time=False,
    )
