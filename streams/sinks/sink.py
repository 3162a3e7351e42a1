"""What a sink is: two methods."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class SinkError(RuntimeError):
    """The far end cannot take records now; they are offered again. The message says why."""


class Sink(Protocol):
    """Takes records at least once, in the order of their partitions."""

    def write(self, values: Sequence[bytes]) -> None:
        """Returns when the far end has them for good. Raises SinkError: it has none or some of them."""

    def close(self) -> None:
        """Let go of the far end."""
