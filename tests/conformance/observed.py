"""What was seen of the rows of a step, by connection."""

from __future__ import annotations

from typing import NamedTuple

from enrich.model import Protocol


class Connection(NamedTuple):
    """One attempt at a row. Addresses are text as sockets give it."""

    protocol: Protocol
    source: str
    source_port: int
    destination: str
    port: int


class Observed:
    """Filled in by those who send and those who are sent to; what belongs to no row of this step is left out."""

    def __init__(self, count: int) -> None:
        self._rows: dict[Connection, int] = {}
        self._arrived = [False] * count
        self._answered = [False] * count
        self._refused = [""] * count

    def expect(self, attempt: Connection, row: int) -> None:
        """An attempt is about to be made, or was just made, for a row."""
        self._rows[attempt] = row

    def arrived(self, attempt: Connection) -> None:
        """Its first packet reached the destination."""
        if (row := self._rows.get(attempt)) is not None:
            self._arrived[row] = True

    def answered(self, attempt: Connection) -> None:
        """The destination's answer reached the source."""
        if (row := self._rows.get(attempt)) is not None:
            self._answered[row] = True

    def refused(self, attempt: Connection, why: str) -> None:
        """The source was told that it cannot be."""
        if (row := self._rows.get(attempt)) is not None:
            self._refused[row] = why

    def is_answered(self, row: int) -> bool:
        """Whether one of the row's attempts got through, there and back."""
        return self._answered[row]

    def seen(self, row: int) -> str:
        """The outcome in words: "allowed", "denied", or what is neither."""
        if self._answered[row]:
            return "allowed"
        if self._refused[row]:
            return f"a refusal ({self._refused[row]})"
        return "its first packet arrive, and no answer come back" if self._arrived[row] else "denied"
