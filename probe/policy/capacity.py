"""Warns before the policy maps are full.

A change that does not fit is refused as a whole and the last policy stays in force, so an operator must hear of a full
map before it is full.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

NEARLY_FULL: Final = 0.8
"""Fraction of a map in use above which a warning is due. A change needs room for old and new entries side by side."""
MANY_IDENTITIES: Final = 4096
"""Number of identities above which a warning is due. Everyday policies make some hundreds for 10,000 pods; selectors
on independent labels can make one per pod."""


def capacity_warnings(usage: Mapping[str, tuple[int, int]], identities: int) -> Iterator[tuple[str, str]]:
    """Yield (name, message) of each thing that is nearly full. ``usage`` is (entries, limit) by the map's name."""
    for name, (used, limit) in usage.items():
        if used > NEARLY_FULL * limit:
            yield name, f"the map {name} holds {used} of {limit} entries: raise WEIR_{name.upper()} before it is full"
    if identities > MANY_IDENTITIES:
        yield (
            "identities",
            f"policies divide the peers into {identities} identities, and each has an entry in every policy set whose "
            "rules name it; selectors on many independent labels cause this: select pods by fewer labels",
        )
