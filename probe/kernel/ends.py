"""What user space does about connection ends (``bpf/ends.h``) beside reading their ring."""

from __future__ import annotations

import numpy as np

from probe.kernel import bpf
from probe.kernel.ends_layout import TRAFFIC_MAP, UNLOGGED
from probe.kernel.layout import EXPIRE_PLACES, distinct
from probe.kernel.maps import Maps
from probe.kernel.place_expiry import expire


def report_all(maps: Maps) -> int:
    """Report all connections of a generation that no packet meets any more. Return how many the ring has no room for.

    Those are to be reported by another call, when some of the ring was read."""
    if TRAFFIC_MAP not in maps or "expire_places" not in maps.programs:
        return 0
    places = range(0, maps["places"].max_entries, EXPIRE_PLACES)
    return sum(expire(maps, first, is_last=True) for first in places)


def references(maps: Maps) -> dict[str, set[int]]:
    """Return the numbers of the ledger in the verdicts of connections that are to be reported, by kind."""
    if TRAFFIC_MAP not in maps:
        return {}
    found: dict[str, set[int]] = {kind: set() for kind in ("identity", "rule", "endpoint")}
    layout = maps[TRAFFIC_MAP].layout
    # Part by part: the map of a large node has 90 MB.
    for _, values in bpf.entry_blocks(maps[TRAFFIC_MAP].fd, layout.key.itemsize, layout.value.itemsize):
        traffic = np.frombuffer(values, layout.value)
        verdicts = traffic["verdict"][traffic["state"] != UNLOGGED]
        for kind in found:
            found[kind] |= distinct(verdicts[kind])
    return found


def with_references(maps: Maps, found: dict[str, set[int]]) -> dict[str, set[int]]:
    """Return ``found``, numbers of the ledger by kind, together with those of :func:`references`."""
    ends = references(maps)
    return {kind: numbers | ends.get(kind, set()) for kind, numbers in found.items()}
