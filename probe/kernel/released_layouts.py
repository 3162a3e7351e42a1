"""The layouts of 0.1.0, which does not describe its maps. There are two; the sizes of the entries tell them apart.

Listed is what a takeover reads. Stamps on their way to an exit are not: theirs mean something else today.

Nothing here changes any more, so a structure that has changed since is written out, even where it begins like today's.
One that changes from now on is copied here as it was, before it is changed in :mod:`probe.kernel.layout`.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from probe.kernel.layout import ENDPOINT_SIDES, MAPS, POLICY_ENTRY, Array, MapLayout

VERSION: Final = "v3"
"""The name of its folder."""

_CONNECTION: Final = np.dtype(
    [
        ("last_ns", "<u8"),
        ("epoch", "<u4"),
        ("rule", "<u4"),
        ("identity", "<u4"),
        ("sequence", "<u4"),
        ("hash", "<u4"),
        ("direction", "u1"),
        ("verdict", "u1"),
        ("reason", "u1"),
        ("state", "u1"),
        ("other", "u1", (16,)),
        ("other_port", "<u2"),
        ("padding", "u1", (6,)),
    ]
)
_DENY_WINDOW: Final = np.dtype(
    [
        ("first_ns", "<u8"),
        ("last_ns", "<u8"),
        ("count", "<u4"),
        ("identity", "<u4"),
        ("dialled_port", "<u2"),
        ("tcp_flags", "u1"),
        ("padding", "u1", (5,)),
        ("dialled", "u1", (16,)),
    ]
)
EARLIER_ENDPOINT: Final = np.dtype(
    [
        ("number", "<u4"),
        ("ready", "<u4"),
        ("attached_ns", "<u8"),
        ("address", "u1", (2, 16)),
        ("set", "<u4", (2,)),
        ("defaults", POLICY_ENTRY, (2, 2, 3)),
    ]
)
"""Only the set and the defaults are stored by side."""
_SAME: Final = ("config", "counters", "endpoints", "addresses", "policy_entries", "port_entries")
"""Maps that were as they are today."""

_WINDOWS: Final = dict.fromkeys(("deny_windows_0", "deny_windows_1", "floods_0", "floods_1"), _DENY_WINDOW)


def _layouts(**values: np.dtype[Any]) -> dict[str, MapLayout]:
    """Return the layouts of the maps; ``values`` are those that differ from today's."""
    changed = {name: MapLayout(MAPS[name].kind, MAPS[name].key, value) for name, value in values.items()}
    return {name: MAPS[name] for name in _SAME} | changed


UNDESCRIBED: Final = (
    _layouts(connections=_CONNECTION, **_WINDOWS),
    _layouts(connections=_CONNECTION, endpoints=EARLIER_ENDPOINT, **_WINDOWS),
)
"""The layouts by map name."""


def endpoint_by_side(endpoint: Array, side: int) -> Array:
    """Return an endpoint of the earlier layout as one of today's, of which one side is filled."""
    made: Array = np.zeros(1, ENDPOINT_SIDES)
    filled = made["side"][0][side]
    for field in ("number", "attached_ns", "address"):
        filled[field] = endpoint[field][0]
    for field in ("set", "defaults"):
        filled[field] = endpoint[field][0][side]
    return made
