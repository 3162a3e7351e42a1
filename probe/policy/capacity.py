"""Warns before the maps are full.

A change that does not fit is refused as a whole and the last policy stays in force, so an operator must hear of a full
map before it is full.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

NEARLY_FULL: Final = 0.8
"""Fraction of a map in use above which a warning is due. A change needs room for old and new entries side by side."""
FULL: Final = 0.95
"""Fraction above which the next change may not fit. The warning is another one, so it is logged at once."""
MANY_IDENTITIES: Final = 4096
"""Number of identities above which a warning is due. Everyday policies make some hundreds for 10,000 pods; selectors
on independent labels can make one per pod."""

_LENT: Final = {
    "connections": "more pods need more than the connections that are reserved for them, and those that use most lose "
    "some before they expire",
    "denied_flows": "denied packets are counted without addresses at pods that have more denied flows than are "
    "reserved for them",
}
"""What follows when all is lent, by the table."""


def capacity_warnings(usage: Mapping[str, tuple[int, int]], identities: int) -> dict[str, tuple[str, str]]:
    """Return event and reason of each warning that is due, by what it is about.

    ``usage`` has the number of entries and the limit of each table.
    """
    found = {}
    for name, (used, limit) in usage.items():
        what, setting = f"{name} full" if used > FULL * limit else name, f"WEIR_{name.upper()}"
        if used <= NEARLY_FULL * limit:
            continue
        if name in _LENT:
            found[what] = (
                "a shared table is nearly full",
                f"of the {limit} places of {name} that can be lent to pods beyond their reserve, {used} are. When all "
                f"are, {_LENT[name]}: raise {setting}, or look for a pod that scans",
            )
        else:
            found[what] = (
                "policy is about to outgrow the maps",
                f"the map {name} holds {used} of {limit} entries: raise {setting} before it is full",
            )
    if identities > MANY_IDENTITIES:
        found["identities"] = (
            "policy is about to outgrow the maps",
            f"policies divide the peers into {identities} identities, and each has an entry in every policy set whose "
            "rules name it; selectors on many independent labels cause this: select pods by fewer labels",
        )
    return found
