"""The batches that the publisher has taken from the spool and that are not acknowledged there."""

from __future__ import annotations

from typing import NamedTuple

from enrich.wire.batch import Header
from probe.export.segment import SpoolPosition
from probe.export.settled import SettledNumbers


class Settled(NamedTuple):
    """Batches that were answered without a gap."""

    last: SpoolPosition | None
    """The last of them; None if there is none."""
    batches: int
    refused: int
    """Verdicts in those of them that Kafka refused for good."""


class InFlight:
    """Batches in the order of the spool. One thread uses it."""

    def __init__(self, numbers: SettledNumbers) -> None:
        """``numbers`` counts what becomes of the batches."""
        self.bytes = 0
        self._numbers = numbers
        self._taken: dict[SpoolPosition, tuple[int, Header | None]] = {}
        self._answered: dict[SpoolPosition, int] = {}

    def __len__(self) -> int:
        """Return how many batches are in flight."""
        return len(self._taken)

    def add(self, position: SpoolPosition, size: int, header: Header | None) -> None:
        """Add a batch of ``size`` bytes; its header is None if it cannot be decoded."""
        self._taken[position] = size, header
        self.bytes += size

    def size_of(self, position: SpoolPosition) -> int:
        """Return the bytes of a batch."""
        return self._taken[position][0]

    def answer(self, position: SpoolPosition, refused: int = 0) -> None:
        """Note Kafka's answer about a batch, of which it refused so many verdicts for good."""
        self._answered[position] = refused

    def settle(self) -> Settled:
        """Take out the batches that are answered without a gap, in order."""
        last, batches, refused = None, 0, 0
        while self._taken and (first := next(iter(self._taken))) in self._answered:
            size, header = self._taken.pop(first)
            lost = self._answered.pop(first)
            last, batches, refused = first, batches + 1, refused + lost
            self.bytes -= size
            if header is not None:
                self._numbers.count(header, refused=lost > 0)
        return Settled(last, batches, refused)

    def clear(self) -> None:
        """Forget all of them."""
        self._taken.clear()
        self._answered.clear()
        self.bytes = 0
