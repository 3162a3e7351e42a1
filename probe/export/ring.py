"""The ring buffer of verdicts (:mod:`probe.export.ring_entries`), and that of reports of connections beside it.

The ring of another version may have longer or shorter verdicts, and so another stride. They are read by their own
layout, and leave as verdicts of this version.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from enrich.wire.batch import VERDICT
from enrich.wire.ends import end_dtype
from probe.export.ring_entries import RingEntries
from probe.kernel.description import converted
from probe.kernel.layout import Array, distinct
from probe.kernel.maps import Maps


class Ring(RingEntries):
    """The reader's end of the ring. There is one reader; the class is not thread safe."""

    def __init__(self, maps: Maps) -> None:
        super().__init__(maps.ring, maps.verdict)
        self.id = maps.ring_id
        self.ends = None if maps.ends_ring is None else RingEntries(maps.ends_ring, end_dtype(maps.verdict))
        """The ring of reports of connections, if the programs make any (``bpf/ends.h``)."""
        self._maps = maps

    def read(self, max_verdicts: int) -> tuple[int, np.ndarray[Any, np.dtype[np.void]]]:
        """Return a copy of the finished verdicts behind those read before, and the number of the first.

        There are at most ``max_verdicts`` of them, and the array is a :data:`VERDICT` array. Their place in the ring
        stays taken until it is released.
        """
        first, verdicts = self.read_entries(max_verdicts)
        return first, converted(verdicts, VERDICT)

    def references(self) -> dict[str, set[int]]:
        """Return the numbers of the ledger in verdicts and reports that have not been released, by kind."""
        unread: list[Array] = [self.unreleased()]
        if self.ends is not None:
            unread.append(self.ends.unreleased()["verdict"])
        return {kind: distinct(*(one[kind] for one in unread)) for kind in ("identity", "rule", "endpoint")}

    def lost(self) -> dict[str, int]:
        """Return how many verdicts the kernel could not write to the ring, as totals of its life by reason."""
        return self._maps.lost()

    def ends_lost(self) -> dict[str, int]:
        """Return how many reports of connections the kernel did not write, as totals of the ring's life by reason."""
        return {} if self.ends is None else self._maps.ends_lost()

    def cut(self) -> dict[tuple[str, str], int]:
        """Return how many verdicts the kernel did not write on purpose, as totals of the ring's life by kind."""
        return self._maps.cut()

    def take_limited(self) -> list[tuple[int, int, int]]:
        """Return endpoint number, kind of verdict and count of what the limits have cut since the last call."""
        return self._maps.take_limited()

    def close(self) -> None:
        """Unmap the rings. The next reader starts at what was not released."""
        super().close()
        if self.ends is not None:
            self.ends.close()
