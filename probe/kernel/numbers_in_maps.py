"""The numbers of the ledger that a generation's policy maps hold."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

import numpy as np

from probe.kernel.layout import Array, MapLayout
from probe.kernel.maps import Maps

_NUMBERED: Final = ("endpoints", "addresses", "policy_entries", "port_entries", "logged_rules")
_KINDS: Final = {"identity": "identity", "set": "set", "port_list": "port_list", "rule": "rule", "number": "endpoint"}
"""Kind of number in the ledger, by the field that holds it."""


def highest_numbers(maps: Maps, layouts: Mapping[str, MapLayout]) -> dict[str, int]:
    """Return the highest number of each kind in the policy maps, which have these layouts."""
    highest: dict[str, int] = {}
    for name in (name for name in _NUMBERED if name in maps):
        items, layout = maps[name].items(), layouts[name]
        for parts, dtype in ((items.keys(), layout.key), (items.values(), layout.value)):
            for field, numbers in _leaves(np.frombuffer(b"".join(parts), dtype)):
                if field in _KINDS and numbers.size:
                    highest[_KINDS[field]] = max(highest.get(_KINDS[field], 0), int(numbers.max()))
    return highest


def _leaves(values: Array) -> Iterator[tuple[str, Array]]:
    """Yield name and values of every field that has no fields itself."""
    for name in values.dtype.names or ():
        field: np.ndarray[Any, np.dtype[Any]] = values[name]
        if field.dtype.names:
            yield from _leaves(field)
        else:
            yield name, field
