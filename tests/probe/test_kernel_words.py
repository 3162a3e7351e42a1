"""The settings that programs read as words of ``config``; no kernel."""

from __future__ import annotations

import numpy as np

from probe.kernel.layout import LIMIT, Config
from probe.kernel_words import set_limits
from tests.probe.kernel.memory_maps import MemoryMaps


def test_a_limit_begins_without_what_was_logged_under_another() -> None:
    maps = MemoryMaps({})
    for index in range(2):
        maps["limits"].set(index.to_bytes(4, "little"), np.array((1000, 9000), LIMIT).tobytes())
    set_limits(maps, 5, 7)  # type: ignore[arg-type]
    assert (maps.config(Config.LIMIT_ALLOWED), maps.config(Config.LIMIT_DENIED)) == (5, 7)
    assert set(maps["limits"].content.values()) == {bytes(LIMIT.itemsize)}
