"""A table of combinations that were met lately, for a whole column of them at once."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from enrich.render.interning import Int64Array

_NOTHING: Final = np.int64(-1)
_WIDTH: Final = 4
"""Numbers of a place: both columns, the combination's number, and one that is not used, for the alignment."""


class PairTable:
    """Combinations that were met lately, each at the place that its hash gives.

    The columns and the number of a place stand together, so that the processor fetches them at once."""

    def __init__(self, bits: int) -> None:
        self._places = np.full((1 << bits, _WIDTH), _NOTHING)

    def find(self, places: Int64Array, ends: Int64Array, ports: Int64Array) -> tuple[Int64Array, Int64Array]:
        """Return the number of each combination, and the places in the arrays of those that are not here."""
        found = self._places.take(places, axis=0)
        return found[:, 2], np.flatnonzero((found[:, 0] != ends) | (found[:, 1] != ports))

    def is_free(self, places: Int64Array) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Return at which places there is no combination."""
        free: np.ndarray[Any, np.dtype[np.bool_]] = self._places[places, 0] == _NOTHING
        return free

    def put(self, places: Int64Array, ends: Int64Array, ports: Int64Array, numbers: Int64Array) -> None:
        """Take combinations in. Of two with one place, the later takes it."""
        self._places[places, :3] = np.stack((ends, ports, numbers), 1)
