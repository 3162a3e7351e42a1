"""Chooses what a full cache evicts: a part of its entries, and never all of them.

A cache that is emptied when it is full works well until the cluster is a little too large for it: then it is emptied
again and again, and nearly every lookup is made anew. So a full cache evicts an eighth. Entries that were not used
since the last eviction go first. If there are not enough of them, or more than enough, the choice is spread evenly over
their places. The oldest or the least recently used would be the wrong choice: a worker goes round the nodes of its
partitions, and needs next exactly what it has not used for the longest time. (With 100 entries used in turn and room
for 90, a cache that evicts the least recently used finds nothing, and this one finds most.)
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from enrich.render.interning import Int64Array

Mask = np.ndarray[Any, np.dtype[np.bool_]]
KEPT: Final = 7 / 8
"""The part of a full cache that stays."""


def victims(used: Mask, count: int) -> Int64Array:
    """Return the places of ``count`` entries to evict. ``used``: which were used since the last eviction."""
    unused = np.flatnonzero(~used)
    if len(unused) >= count:
        return _spread(unused, count)
    others = np.flatnonzero(used)
    return np.concatenate([unused, _spread(others, min(count - len(unused), len(others)))])


def _spread(places: Int64Array, count: int) -> Int64Array:
    """Choose some of the places, evenly."""
    return places[(2 * np.arange(count) + 1) * len(places) // (2 * max(count, 1))]
