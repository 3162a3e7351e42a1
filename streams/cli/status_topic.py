"""Reads the status topic, and which nodes the checkpoints know, for `weir status` and `weir doctor`."""

from __future__ import annotations

import contextlib
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from typing import Final

import msgspec

from streams.cli.custody import NodeKey, Tallies
from streams.cli.custody_sums import Heard, decode_failed_route, decode_lost_ends, decode_tally
from streams.cli.custody_text import Failure, LostReports, SeenWorker
from streams.kafka.connection import Connection, NoTopicError
from streams.kafka.ranges import read_range
from streams.kafka.reading import TopicReader
from streams.kafka.records import Record
from streams.worker.checkpoint import MERGED_RECORDS, newest

TALLY_BEFORE_S: Final = 120.0
"""How long before a window reading begins, so that the last tally of each node before it is found."""
_MAX_WORKERS: Final = 10_000
_MAX_LOST_REPORTS: Final = 20_000
"""Anyone who may write to the topics may invent workers, nodes and reasons."""


class StatusTopic:
    """What the records of the status topic say, in their order."""

    def __init__(self, start: float, is_chosen: Callable[[NodeKey], bool]) -> None:
        self._start, self._is_chosen = start, is_chosen
        self.tallies = Tallies(start)
        self.failed_routes: dict[str, Failure] = {}
        """The last failure of each topic of routes."""
        self.workers: dict[str, SeenWorker] = {}
        self.lost_ends = Counter[LostReports]()

    def add(self, record: Record) -> None:
        """Take a record, of any type."""
        # The writer of a record chooses its time, and may choose one that no date can have.
        at = min(max(record.timestamp_ms / 1000, 0.0), time.time())
        with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            self._add_tally(Heard(at, decode_tally(record.value)))
            return
        with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            failed = decode_failed_route(record.value)
            if at >= self._start and self._is_chosen((failed.cluster, "")):
                self.failed_routes[failed.reason] = Failure(at, failed.error)
            return
        with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            lost = decode_lost_ends(record.value)
            key = LostReports(lost.cluster, lost.node, lost.reason)
            if (
                at >= self._start
                and self._is_chosen(key[:2])
                and (key in self.lost_ends or len(self.lost_ends) < _MAX_LOST_REPORTS)
            ):
                self.lost_ends[key] += lost.reports

    def _add_tally(self, heard: Heard) -> None:
        found = heard.record
        if self._is_chosen((found.cluster, found.node)):
            self.tallies.add(heard)
            if found.worker and len(self.workers) < _MAX_WORKERS:
                self.workers[found.worker] = SeenWorker(found.worker, found.version, heard.at)


def read_since(connection: Connection, topic: str, since: float | None = None) -> Iterator[Record]:
    """Yield the records of a topic from a time on, in seconds since the epoch, to its end. Raises ReadError."""
    with contextlib.closing(TopicReader(connection, topic)) as reader:
        bounds = reader.bounds()
        starts = {partition: first for partition, (first, _) in bounds.items()}
        if since is not None:
            # To Kafka, a negative time means something else.
            starts = reader.at_time(max(0, int(since * 1000)))
        yield from read_range(reader, starts, {partition: end for partition, (_, end) in bounds.items()})


def _cluster_of(key: str, prefix: str) -> str:
    """Return the cluster in the key of a checkpoint, ``PREFIX.CLUSTER.enrich/PARTITION``; empty if there is none."""
    group, _, _ = key.rpartition("/")
    return group.removeprefix(f"{prefix}.").removesuffix("enrich").removesuffix(".")


def last_seen(connection: Connection, topic: str, prefix: str) -> dict[NodeKey, float]:
    """Return when workers finished the last batch of each node that checkpoints know. Raises ReadError."""
    found: dict[bytes, deque[bytes]] = {}
    try:
        for record in read_since(connection, topic):
            if record.value:
                found.setdefault(record.key, deque(maxlen=MERGED_RECORDS)).append(record.value)
    except NoTopicError:
        return {}  # no worker has committed anything yet
    seen: dict[NodeKey, float] = {}
    for key, values in found.items():
        checkpoint, cluster = newest(values), _cluster_of(key.decode(errors="replace"), prefix)
        for ring in checkpoint.rings if checkpoint else ():
            node = (cluster, ring.node)
            seen[node] = max(seen.get(node, 0.0), float(ring.seen))
    return seen
