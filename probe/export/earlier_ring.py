"""The ring of another generation, which is read to its end before the own one (``probe.kernel.generations``)."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from probe.export.ring import Ring


@dataclass(frozen=True, slots=True)
class EarlierRing:
    """The ring of another generation."""

    ring: Ring
    ended: threading.Event
    """Set when nothing is written to it any more."""
    remove_pins: Callable[[], None]
    """Removes the generation."""

    def remove(self) -> None:
        """Remove the generation, whose ring has been read to its end."""
        self.ring.close()
        self.remove_pins()
