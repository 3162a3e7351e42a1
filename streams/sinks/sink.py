"""What a sink is: two methods, and two ways to say no."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class SinkError(RuntimeError):
    """The far end cannot take records now; they are offered again. The message says why."""


class RefusedError(RuntimeError):
    """The far end will never take one of these records, or some. The message says why."""


class Sink(Protocol):
    """Takes records at least once, in the order of their partitions."""

    def write(self, values: Sequence[bytes]) -> None:
        """Returns when the far end has them for good. Raises SinkError, or RefusedError: it has none or some of them.

        With none it is called now and then, where there is nothing to write."""

    def close(self) -> None:
        """Let go of the far end."""
