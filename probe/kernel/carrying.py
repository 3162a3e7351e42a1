"""Carries connections and what belongs to them from one generation's maps to another's, while programs write both.

A map that both generations share needs nothing. Of another one everything is copied first; afterwards, the connections
with a packet since, and the entries that are missing. Fields are copied by name (``probe.kernel.description``).

Places are numbered in each generation. A connection gets a new one, which is paid by whoever paid for the old one. If
its pod has no budget yet, the programs give it a place with its next packet.

A connection that is opened after a copy is missing in the other table until the next one. Its packets are sent again,
but an ICMP error about it is not. So each generation's programs look errors up in the other's table as well, if its
layout is theirs (``bpf/errors.h``).
"""

from __future__ import annotations

import errno
import functools
import time
from collections.abc import Callable, Mapping
from typing import Final

import numpy as np
import structlog

from probe.kernel import bpf
from probe.kernel.description import converted
from probe.kernel.layout import CONNECTION_KEY, Array
from probe.kernel.maps import Map, Maps
from probe.kernel.stored_connections import OWN, Payer, store_connection

_CARRIED: Final = ("connections", "fragments", "origins")
_MARGIN_NS: Final = 100_000_000
"""A program reads the clock when it begins, and stores the time when it ends."""

_ONLY: Final = bytes(4)
"""The key in a map of one entry."""

log = structlog.get_logger("kubeweir.probe")


class Carrier:
    """Copies from ``old`` to ``new``. One caller at a time, which forgets it when the old programs run no more: it
    remembers who paid for each of many connections."""

    def __init__(self, old: Maps, new: Maps) -> None:
        self._tables = [
            (old[name], new[name])
            for name in _CARRIED
            if name in old and bpf.map_info(old[name].fd).number != bpf.map_info(new[name].fd).number
        ]
        self._old, self._new = old, new
        for theirs, ours in self._tables:
            # The old programs may run until the last interface is moved, and read an entry as their version writes it.
            if ours.name == "connections" and ours.layout == theirs.layout and "other_table" in old:
                self._link(theirs, ours)
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
            insert = new.set
            if new.name == "connections":
                values["place"], insert = 0, self._insert_connection
            _copy(converted(keys, new.layout.key), values, new, insert)
        self._carried_ns = began_ns

    def _link(self, theirs: Map, ours: Map) -> None:
        """Let the programs of both generations look into each other's table of connections."""
        try:
            self._new["other_table"].set(_ONLY, theirs.fd.to_bytes(4, "little"))
            self._old["other_table"].set(_ONLY, ours.fd.to_bytes(4, "little"))
        except OSError as error:
            # The kernel also compares what no layout says, such as the maps' flags.
            log.warning("the tables of connections of two generations cannot be linked: ICMP errors about connections "
                        "that are opened while interfaces are moved may be denied", error=str(error))  # fmt: skip

    def _insert_connection(self, key: bytes, value: bytes) -> None:
        own = Payer(int(np.frombuffer(key, CONNECTION_KEY)["endpoint"][0]), OWN)
        if not store_connection(self._new, key, value, self._payers.get(key, own)):
            self._new["connections"].set(key, value)

    @functools.cached_property
    def _payers(self) -> dict[bytes, Payer]:
        """Who paid for each connection's place in the other generation when this was first asked."""
        if "places" not in self._old:
            return {}
        _, places = self._old["places"].entries()
        keys = converted(places["key"], CONNECTION_KEY)
        accounts = zip(places["payer"].tolist(), places["account"].tolist(), strict=True)
        return {key.tobytes(): Payer(*account) for key, account in zip(keys, accounts, strict=True)}


def forget_other_table(maps: Maps) -> None:
    """Have the programs look into their own table of connections only, and release the other generation's."""
    maps["other_table"].drop(_ONLY)


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


def _copy(keys: Array, values: Array, new: Map, insert: Callable[[bytes, bytes], None]) -> None:
    """Copy entries. ``insert`` stores those that are missing; of others, those with a later packet are replaced."""
    names = values.dtype.names or ()
    for key, value in zip(keys, values, strict=True):
        there = new.get(key.tobytes())
        if there is None:
            insert(key.tobytes(), value.tobytes())
        elif "last_ns" in names and there["last_ns"] < value["last_ns"]:
            value["place"] = there["place"]
            new.set(key.tobytes(), value.tobytes())
