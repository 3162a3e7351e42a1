"""Which pod had which address before this worker started, from the compacted topic of address intervals.

Theory of operation. A worker may have to name pods that were deleted before it started: it crashed, moved to another
machine, or is hours behind. The API server has forgotten them, but every probe publishes the address intervals of its
pods (an address, a pod, from when to when), and compaction keeps the last record for each key.

1. At the start, the worker notes the end offset of each partition and reads from the first offset.
2. When it has every record before these ends, the intervals are in the cluster's index, and ``loaded`` is set. Nothing
   is enriched before that. Compaction may have removed the very last records, so a partition also counts as read when
   nothing more has arrived for 5 s.
3. From then on it follows the topic. Whenever a read returns nothing for 50 ms, everything published before that read
   is in the index: this is :meth:`AddressHistory.synced_until_ns`. Where pods come and go all the time, reads rarely
   return nothing. A read that returns all that has arrived proves the same of what was published 50 ms before it.
4. A tombstone (a key without a value) removes the interval. A record that cannot be decoded is counted and skipped.
5. An interval that cannot be true is refused and reported (``enrich.index.forged``). Compaction is late, so the topic
   still has the first record of a pod that has ended since: it has no end, and the pod that has the address today is
   against it. So before the topic is read up to its end, such a record waits for a later one of its key.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final, Protocol

import structlog

from enrich.index.cluster import Cluster
from enrich.index.forged import why_forged, why_forged_end
from enrich.runtime.process import StopServiceError
from enrich.wire.address_interval import (
    INTERVAL_RETENTION_NS,
    AddressIntervalError,
    decode_interval,
    decode_interval_key,
)
from enrich.wire.whose import is_foreign
from streams.kafka.connection import ReadError
from streams.kafka.records import Record, TopicAndPartition
from streams.metrics.roles import EnrichMetrics

log = structlog.get_logger("kubeweir.streams")

_MAX_RECORDS: Final = 5_000
_WAIT_S: Final = 0.05
_RETRY_S: Final = 1.0
_OPEN: Final = {"node": "open_of_node", "index": "open"}
"""Limits of open intervals, as the metric calls them."""
_MAX_DOUBTFUL: Final = 20_000
_MAX_DOUBTFUL_BYTES: Final = 2_000
"""Records that wait so, and bytes of the value of each: a probe's have about 400. Beyond, they are refused at once."""
_COMPACTED_END_S: Final = 5.0
"""How long the last records before the end offset are waited for: compaction may have removed them."""


class Reader(Protocol):
    """See :class:`streams.kafka.reading.TopicReader`."""

    def bounds(self) -> dict[int, tuple[int, int]]: ...

    def start(self, offsets: dict[int, int]) -> None: ...

    def take(self, max_records: int, wait_s: float) -> list[Record]: ...

    def close(self) -> None: ...


class AddressHistory:
    """Reads the topic on a thread of its own and keeps the cluster's index up to date."""

    def __init__(
        self,
        open_reader: Callable[[], Reader],
        cluster: Cluster,
        cluster_id: str,
        metrics: EnrichMetrics,
        topic: str = "",
    ) -> None:
        """``cluster_id``: the only cluster whose intervals are used, empty for any."""
        self.loaded = threading.Event()
        """Set when everything that the topic held at the start is in the index."""
        self.positions: dict[TopicAndPartition, int] = {}
        """The next offset of each partition; empty before the topic was reached."""
        self.problem: str | None = "the address history has not been read yet"
        self._open_reader, self._cluster, self._cluster_id = open_reader, cluster, cluster_id
        self._metrics, self._topic = metrics, topic
        self._synced_until_ns = 0
        self._doubtful: dict[bytes, Record] = {}
        """By key, records that cannot be true unless a later one of the key says more."""
        self._dropped: dict[str, int] = {}
        """How many intervals were dropped by each limit, as far as it is counted."""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="history", daemon=True)

    def start(self) -> None:
        """Begin to read."""
        self._thread.start()

    def stop(self) -> None:
        """Stop reading."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join(5)

    def synced_until_ns(self) -> int:
        """Return a wall-clock time: everything published before it is in the index."""
        return self._synced_until_ns

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._follow(self._open_reader())
            except (ReadError, StopServiceError) as error:
                self._retry_after(str(error))
            except Exception as error:
                # A fault of ours. A thread that ended here would leave the worker without names, unseen.
                log.exception("the address history stopped at an unexpected error")
                self._retry_after(f"{type(error).__name__}: {error}")

    def _retry_after(self, problem: str) -> None:
        self.problem = problem
        log.warning("the address history cannot be read; retrying", error=problem)
        self._stop.wait(_RETRY_S)

    def _follow(self, reader: Reader) -> None:
        try:
            bounds = reader.bounds()
            self.positions = {(self._topic, partition): first for partition, (first, _) in bounds.items()}
            reader.start({partition: first for partition, (first, _) in bounds.items()})
            missing = {partition: end for partition, (first, end) in bounds.items() if end > first}
            self._doubtful.clear()
            started_at = progress_at = time.monotonic()
            count = 0
            while not self._stop.is_set():
                requested_ns = time.time_ns()
                records = reader.take(_MAX_RECORDS, _WAIT_S)
                for record in records:
                    self._apply(record, is_last=not missing)
                    self.positions[self._topic, record.partition] = record.offset + 1
                    if record.offset + 1 >= missing.get(record.partition, record.offset + 2):
                        del missing[record.partition]
                self._count_dropped()
                count += len(records)
                if records:
                    progress_at = time.monotonic()
                elif time.monotonic() - progress_at > _COMPACTED_END_S:
                    missing.clear()
                if not missing and self._doubtful:
                    self._apply_doubtful()
                if not missing and not self.loaded.is_set():
                    log.info("address history read", records=count, seconds=round(time.monotonic() - started_at, 3))
                    self._cluster.addresses.set_complete_since(time.time_ns() - INTERVAL_RETENTION_NS)
                    self.loaded.set()
                if not missing:  # after an error, everything is read again: until then, later records may be missing
                    self.problem = None
                    if not records:
                        self._synced_until_ns = requested_ns
                    elif len(records) < _MAX_RECORDS:
                        self._synced_until_ns = max(self._synced_until_ns, requested_ns - int(_WAIT_S * 1e9))
        finally:
            reader.close()

    def _apply_doubtful(self) -> None:
        doubtful, self._doubtful = self._doubtful, {}
        for record in doubtful.values():
            self._apply(record, is_last=True)

    def _apply(self, record: Record, *, is_last: bool) -> None:
        """Bring the index up to date. Without ``is_last``, the topic may already have a later record of the key."""
        if record.unread:
            self._metrics.bad_address_intervals.inc()
            return  # it was logged where it was passed over
        self._doubtful.pop(record.key, None)
        try:
            key = decode_interval_key(record.key)
            if is_foreign(key.cluster, self._cluster_id):
                self._metrics.foreign_records.labels("address_intervals").inc()
                return
            if record.value:
                interval = decode_interval(record.value, record.key).corrected()
                why = why_forged(self._cluster, interval)
                has_room = len(self._doubtful) < _MAX_DOUBTFUL and len(record.value) <= _MAX_DOUBTFUL_BYTES
                if why and not is_last and has_room:
                    self._doubtful[record.key] = record
                    return
                if not self._is_forged(why):
                    self._cluster.addresses.add_interval(interval)
            elif not self._is_forged(why_forged_end(self._cluster, key)):
                self._cluster.addresses.remove_interval(key.uid, key.ip)
        except AddressIntervalError as error:
            self._metrics.bad_address_intervals.inc()
            log.warning("an address interval cannot be decoded; skipped", offset=record.offset, error=str(error))
        else:
            self._metrics.address_intervals.inc()

    def _count_dropped(self) -> None:
        """Count the intervals that the index has dropped; each limit is logged when it is first reached."""
        addresses = self._cluster.addresses
        of_open = {_OPEN[limit]: total for limit, total in addresses.unconfirmed.dropped.items()}
        for limit, total in {**addresses.ended.dropped, **of_open}.items():
            counted = self._dropped.get(limit, 0)
            self._metrics.dropped_intervals.labels(limit).inc(total - counted)
            self._dropped[limit] = total
            if total and not counted:
                if limit in of_open:
                    text = "the API server does not know the pods of too many address intervals: the first are given up"
                else:
                    text = "too many address intervals have ended: those that ended first are dropped"
                log.warning(
                    f"{text}, so records may not name these pods; does a probe publish intervals of pods that never "
                    "were?", limit=limit,
                )  # fmt: skip

    def _is_forged(self, why: str | None) -> bool:
        """Report an interval that cannot be true."""
        if why is None:
            return False
        self._metrics.refused_intervals.labels("forged_interval").inc()
        log.error(
            "an address interval is refused: a probe reports its own node's pods only, so somebody else wrote it, or "
            "two nodes have one WEIR_NODE", reason="forged_interval", why=why,
        )  # fmt: skip
        return True
