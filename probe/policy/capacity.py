"""What is about to be too much for the maps, said before it is. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

NEARLY_FULL: Final = 0.8
"""The part of a map that may be in use without a word: a change needs room for old and new side by side."""
MANY_IDENTITIES: Final = 4096
"""Classes of peers. Everyday policies make some hundreds for 10,000 pods; independent selectors can make one a pod."""

_SETTINGS: Final = {"rows": "WEIR_POLICY_ENTRIES", "ports": "WEIR_PORT_ENTRIES"}


def capacity_warnings(usage: Mapping[str, tuple[int, int]], identities: int) -> Iterator[tuple[str, str]]:
    """Each thing that is nearly full: its name, and in words what to do. ``usage``: entries and limit of each map."""
    for name, (used, limit) in usage.items():
        if used > NEARLY_FULL * limit:
            setting = _SETTINGS.get(name, f"WEIR_{name.upper()}")
            yield name, f"the map {name} holds {used} of {limit} entries: raise {setting} before it is full"
    if identities > MANY_IDENTITIES:
        yield (
            "identities",
            f"{identities} classes of peers that policies tell apart, each with a row in every policy set that names "
            "it: selectors that overlap at random do this; name pods by fewer labels",
        )
