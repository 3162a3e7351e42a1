"""Carries connections and what belongs to them from one generation's maps to another's, while programs write both.

A map that both generations share needs nothing. Of another one everything is copied first; afterwards, the connections
with a packet since, and the entries that are missing. Fields are copied by name (``probe.kernel.description``).
"""

from __future__ import annotations

import errno
import time
from collections.abc import Mapping
from typing import Final

import numpy as np
import structlog

from probe.kernel import bpf
from probe.kernel.description import converted
from probe.kernel.layout import Array
from probe.kernel.maps import Map, Maps

_CARRIED: Final = ("connections", "fragments", "origins")
_MARGIN_NS: Final = 100_000_000
"""A program reads the clock when it begins, and stores the time when it ends."""

log = structlog.get_logger("kubeweir.probe")


class Carrier:
    """Copies from ``old`` to ``new``. One caller at a time."""

    def __init__(self, old: Maps, new: Maps) -> None:
        self._tables = [
            (old[name], new[name])
            for name in _CARRIED
            if name in old and bpf.map_info(old[name].fd).number != bpf.map_info(new[name].fd).number
        ]
        self._carried_ns = 0
        """When the last copy began, by the monotonic clock; 0: there was none."""

    def carry(self) -> None:
        """Copy what has changed since the last call."""
        began_ns = time.monotonic_ns()
        for old, new in self._tables:
            keys, values = old.entries()
            if "last_ns" in (values.dtype.names or ()):
                recent = values["last_ns"].astype(np.int64) >= self._carried_ns - _MARGIN_NS
                keys, values = keys[recent], values[recent]
            values = converted(values, new.layout.value).copy()
            if "place" in (values.dtype.names or ()):
                # Places are numbered in each generation. The programs give the connection one with its next packet.
                values["place"] = 0
            _copy(converted(keys, new.layout.key), values, new)
        self._carried_ns = began_ns


def copy_endpoints(found: Mapping[bytes, bytes], new: Map) -> None:
    """Copy the endpoints that are missing. An interface whose endpoint does not fit is closed when it is moved."""
    missing = found.keys() - new.items().keys()
    for copied, key in enumerate(sorted(missing)):
        try:
            new.set(key, found[key])
        except OSError as error:
            if error.errno != errno.E2BIG:
                raise
            log.warning("the map endpoints is smaller than before: interfaces of pods that do not fit are closed",
                        endpoints=new.max_entries, not_copied=len(missing) - copied)  # fmt: skip
            return


def _copy(keys: Array, values: Array, new: Map) -> None:
    timed = "last_ns" in (values.dtype.names or ())
    for key, value in zip(keys, values, strict=True):
        there = new.get(key.tobytes())
        if there is not None and "place" in (values.dtype.names or ()):
            value["place"] = there["place"]
        if there is None or (timed and there["last_ns"] < value["last_ns"]):
            new.set(key.tobytes(), value.tobytes())
