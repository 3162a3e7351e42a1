"""The form of a reader of malformed records."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar


class Reader(ABC):
    """Everything that decodes one topic. It may remember records, as the real readers do."""

    good: ClassVar[tuple[bytes, ...]]
    """True records, from which malformed ones are made."""
    together: ClassVar[int] = 1
    """How many records :meth:`take` is called with: more than one where making the reader costs most of the time."""

    @abstractmethod
    def __call__(self, value: bytes) -> None:
        """Take a record. Raises an exception if it ends a reader, or is read as something else, or is not accounted
        for."""

    def take(self, values: Sequence[bytes]) -> None:
        """Take records, at least one. Raises as for a single one."""
        for value in values:
            self(value)

    def close(self) -> None:  # noqa: B027 - few readers have something to close
        """Close what the readers have opened."""
