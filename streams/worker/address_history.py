"""Who had which address before this worker was there: the topic of holds, read into the index, and then followed.

The whole topic is read before anything is named. A worker that starts, on whatever machine, then knows what its
predecessor knew, of pods too that were deleted while no worker ran.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final, Protocol

import structlog

from enrich.index.cluster import Cluster
from enrich.wire.address_interval import (
    INTERVAL_RETENTION_NS,
    AddressIntervalError,
    decode_interval,
    decode_interval_key,
)
from streams.kafka.connection import ReadError
from streams.kafka.records import Record
from streams.metrics.roles import EnrichMetrics

log = structlog.get_logger("kubeweir.streams")

_MOST: Final = 5_000
_WAIT_S: Final = 0.05
_RETRY_S: Final = 1.0
_GONE_S: Final = 5.0
"""The last offset that is told may have been compacted away: after so long it is not waited for any more."""


class Reader(Protocol):
    """See :class:`streams.kafka.reading.TopicReader`."""

    def bounds(self) -> dict[int, tuple[int, int]]: ...

    def start(self, offsets: dict[int, int]) -> None: ...

    def take(self, most: int, wait_s: float) -> list[Record]: ...

    def close(self) -> None: ...


class AddressHistory:
    """Reads the topic on a thread of its own."""

    def __init__(
        self, open_reader: Callable[[], Reader], cluster: Cluster, cluster_id: str, metrics: EnrichMetrics
    ) -> None:
        """``cluster_id``: whose holds are taken; empty for every cluster's."""
        self.loaded = threading.Event()
        """All that was there at the start is in the index."""
        self.problem: str | None = "who had which address is not read yet"
        self._open_reader, self._cluster, self._cluster_id = open_reader, cluster, cluster_id
        self._metrics = metrics
        self._read_ns = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="history", daemon=True)

    def start(self) -> None:
        """Begin to read."""
        self._thread.start()

    def stop(self) -> None:
        """End it."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join(5)

    def synced_until_ns(self) -> int:
        """What was told before this moment of the wall clock is in the index."""
        return self._read_ns

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._follow(self._open_reader())
            except ReadError as error:
                self.problem = str(error)
                log.warning("the history of addresses cannot be read, trying again", error=str(error))
                self._stop.wait(_RETRY_S)

    def _follow(self, reader: Reader) -> None:
        try:
            bounds = reader.bounds()
            reader.start({partition: first for partition, (first, _) in bounds.items()})
            missing = {partition: end for partition, (first, end) in bounds.items() if end > first}
            began = heard = time.monotonic()
            taken = 0
            while not self._stop.is_set():
                asked = time.time_ns()
                records = reader.take(_MOST, _WAIT_S)
                for record in records:
                    self._take(record)
                    if record.offset + 1 >= missing.get(record.partition, record.offset + 2):
                        del missing[record.partition]
                taken += len(records)
                if records:
                    heard = time.monotonic()
                elif time.monotonic() - heard > _GONE_S:
                    missing.clear()
                if not missing and not self.loaded.is_set():
                    log.info("history of addresses read", records=taken, seconds=round(time.monotonic() - began, 3))
                    self._cluster.addresses.set_complete_since(time.time_ns() - INTERVAL_RETENTION_NS)
                    self.loaded.set()
                if self.loaded.is_set():
                    self.problem = None
                    self._read_ns = self._read_ns if records else asked
        finally:
            reader.close()

    def _take(self, record: Record) -> None:
        try:
            key = decode_interval_key(record.key)
            if self._cluster_id and key.cluster != self._cluster_id:
                return
            if record.value:
                self._cluster.addresses.add_interval(decode_interval(record.value))
            else:
                self._cluster.addresses.remove_interval(key.uid, key.ip)
        except AddressIntervalError as error:
            self._metrics.bad_address_intervals.inc()
            log.warning("a hold of an address is not understood", offset=record.offset, error=str(error))
        else:
            self._metrics.address_intervals.inc()
