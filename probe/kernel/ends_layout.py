"""The maps that only programs with ENDS have (``bpf/ends.h``): their layout, and which generation has them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np

from enrich.wire.batch import VERDICT
from enrich.wire.ends import end_dtype
from probe.kernel.layout import INDEX, MAPS, MapLayout

ENDS: Final = "ENDS"
"""The compile-time constant, which is named among the sizes of a generation: switching it makes another one."""
TRAFFIC_MAP: Final = "traffic"
ENDS_RING: Final = "connection_ends"
"""The ring of reports. Its entries are :data:`END`."""
END: Final = end_dtype(VERDICT)
TRAFFIC: Final = np.dtype(
    [
        ("lately", "<u8", (2,)),
        ("marks", "<u8"),
        ("owner", "<u8"),
        ("serial", "<u4"),
        ("fin", "u1", (2,)),
        ("reset", "u1"),
        ("uncertain", "u1"),
        ("reset_at", "<u8"),
        ("since_ns", "<u8"),
        ("ring", "<u8"),
        ("number", "<u8"),
        ("bytes", "<u8", (2,)),
        ("packets", "<u8", (2,)),
        ("verdict", VERDICT),
        ("part", "<u4"),
        ("state", "u1"),
        ("padding", "u1", (3,)),
    ]
)
"""``struct traffic`` of ``bpf/layout.h``."""
UNLOGGED: Final = 0
"""``TRAFFIC_UNLOGGED``: the state of a place without a connection that is to be reported."""
_ARRAY: Final = 2
ENDS_MAPS: Final = {TRAFFIC_MAP: MapLayout(_ARRAY, INDEX, TRAFFIC)}


def maps_of(sizes: Mapping[str, int]) -> Mapping[str, MapLayout]:
    """Return the layouts of the maps that a generation with these sizes has."""
    return MAPS | ENDS_MAPS if sizes.get(ENDS) else MAPS
