"""Flows as lines of a table that is never finished: columns of a width that only grows, so that `-f` stays readable."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from rich.console import Console
from rich.text import Text

from streams.cli.filters import Flow

HEADINGS: Final = ("TIME", "DIRECTION", "FROM", "TO", "PORT", "VERDICT", "POLICIES")
_WIDTHS: Final = (12, 9, 28, 28, 10, 7, 0)
_STYLES: Final = {"allow": "green", "deny": "bold red", "audit": "yellow"}


class FlowTable:
    """Writes a heading, then a line a flow."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._widths = list(_WIDTHS)
        self._begun = False

    def write(self, flow: Flow) -> None:
        """One more line."""
        if not self._begun:
            self._begun = True
            self._line(HEADINGS, "bold")
        cells = flow_cells(flow)
        self._widths = [max(width, len(cell)) for width, cell in zip(self._widths, cells, strict=True)]
        self._widths[-1] = 0
        self._line(cells, _STYLES.get(str(flow.get("disposition")), ""))

    def _line(self, cells: tuple[str, ...], style: str) -> None:
        text = Text()
        for index, (cell, width) in enumerate(zip(cells, self._widths, strict=True)):
            coloured = style == "bold" or index == HEADINGS.index("VERDICT")
            text.append(cell.ljust(width) if width else cell, style=style if coloured else "")
            text.append("  ")
        text.rstrip()
        # soft_wrap: a line that is too long is the terminal's to wrap, and whole in a pipe.
        self._console.print(text, soft_wrap=True)


def flow_cells(flow: Flow) -> tuple[str, ...]:
    """The cells of :data:`HEADINGS` for one record."""
    connection = flow.get("connection", {})
    verdict = str(flow.get("disposition", "?"))
    count = flow.get("count", 1)
    return (
        _time(str(flow.get("timestamp", ""))),
        str(connection.get("direction", "")),
        _end(flow.get("src", {}), connection.get("src_ip")),
        _end(flow.get("dest", {}), connection.get("dest_ip")),
        _port(flow),
        verdict if count == 1 else f"{verdict} x{count}",
        _why(flow),
    )


def _time(timestamp: str) -> str:
    """Hours to milliseconds of an RFC 3339 time, UTC as it stands there."""
    return timestamp.partition("T")[2][:12]


def _end(end: Mapping[str, Any], address: Any) -> str:
    if end.get("pod_name"):
        return f"{end.get('namespace', '')}/{end['pod_name']}"
    if address:
        return f"{address} ({end['node_name']})" if end.get("node_name") else str(address)
    return str(end.get("node_name") or "-")


def _port(flow: Flow) -> str:
    connection = flow.get("connection", {})
    protocol = str(connection.get("protocol", "-"))
    if "dest_port" in connection:
        return f"{protocol}/{connection['dest_port']}"
    icmp = flow.get("icmp")
    return f"{protocol}/{icmp['type']}" if icmp else protocol


def _why(flow: Flow) -> str:
    """The policies that decided; else those that isolate; else the reason."""
    reason = str(flow.get("reason", ""))
    if flow.get("policies"):
        return ", ".join(_policy(policy) for policy in flow["policies"])
    if flow.get("isolated_by"):
        return "isolated by " + ", ".join(_policy(policy) for policy in flow["isolated_by"])
    return reason.replace("_", " ")


def _policy(policy: Mapping[str, Any]) -> str:
    return f"{policy['namespace']}/{policy['name']}" if policy.get("namespace") else str(policy["name"])
