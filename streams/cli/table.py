"""Flows as lines of a table that never ends: a column grows and never shrinks, so that `-f` stays readable."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from rich.console import Console
from rich.text import Text

from enrich.wire.flow import Flow, Side
from streams.cli.observe import Shown

HEADINGS: Final = ("TIME", "DIRECTION", "FROM", "TO", "PORT", "VERDICT", "POLICIES")
_WIDTHS: Final = (12, 9, 28, 28, 10, 7, 0)
_STYLES: Final = {"allow": "green", "deny": "bold red", "audit": "yellow"}


class FlowTable:
    """Writes a heading, then a line for each flow. The time of another day than today has its date."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._widths = list(_WIDTHS)
        self._has_heading = False

    def write(self, shown: Shown) -> None:
        """Write one more line, and before the first one the heading."""
        if not self._has_heading:
            self._has_heading = True
            self._line(HEADINGS, "bold")
        cells = flow_cells(shown.flow)
        day, _, _ = shown.flow.timestamp.partition("T")
        if day != f"{datetime.now(UTC):%Y-%m-%d}":
            cells = (f"{day} {cells[0]}", *cells[1:])
        self._widths = [max(width, len(cell)) for width, cell in zip(self._widths, cells, strict=True)]
        self._widths[-1] = 0
        self._line(cells, _STYLES.get(shown.flow.disposition, ""))

    def _line(self, cells: tuple[str, ...], style: str) -> None:
        text = Text()
        for index, (cell, width) in enumerate(zip(cells, self._widths, strict=True)):
            coloured = style == "bold" or index == HEADINGS.index("VERDICT")
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
