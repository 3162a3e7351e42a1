"""The observed outcomes of the rows of a step."""

from __future__ import annotations

from typing import NamedTuple

from enrich.model import Protocol


class Connection(NamedTuple):
    """One attempt at a row. Addresses are text, as sockets return them."""

    protocol: Protocol
    source: str
    source_port: int
    destination: str
    port: int


class Observed:
    """Collects what clients and servers observe. Packets that belong to no row of this step are ignored."""

    def __init__(self, count: int) -> None:
        self._rows: dict[Connection, int] = {}
        self._arrived = [False] * count
        self._answered = [False] * count
        self._refused = [""] * count

    def expect(self, attempt: Connection, row: int) -> None:
        """Register an attempt at a row, before or just after it is made."""
        self._rows[attempt] = row

    def arrived(self, attempt: Connection) -> None:
        """Note that the attempt's first packet reached the destination."""
        if (row := self._rows.get(attempt)) is not None:
            self._arrived[row] = True

    def answered(self, attempt: Connection) -> None:
        """Note that the destination's answer reached the source."""
        if (row := self._rows.get(attempt)) is not None:
            self._answered[row] = True

    def refused(self, attempt: Connection, why: str) -> None:
        """Note that the source got an error, such as a reset or an ICMP error."""
        if (row := self._rows.get(attempt)) is not None:
            self._refused[row] = why

    def is_answered(self, row: int) -> bool:
        """Return whether one of the row's attempts was answered."""
        return self._answered[row]

    def outcome(self, row: int) -> str:
        """Return the outcome in words: "allowed", "denied", or a description of what is neither."""
        if self._answered[row]:
            return "allowed"
        if self._refused[row]:
            return f"refused ({self._refused[row]})"
        return "half open (its first packet arrived, and no answer came back)" if self._arrived[row] else "denied"
