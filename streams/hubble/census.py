"""What the server knows of the cluster by watching its flows: nodes, namespaces, and how many come.

One thread reads the topics of flows and of status from an hour ago on, but at a start no more than the last records of
each partition: the census of a busy cluster is complete an hour after the start at the latest.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

import msgspec
import structlog

from enrich.runtime.process import StopServiceError
from enrich.wire.bounds import Cluster, Node
from enrich.wire.flow import Flow, decode_flow
from streams.kafka.connection import ReadError
from streams.kafka.records import Record

log = structlog.get_logger("kubeweir.streams")

HOUR_S: Final = 3600.0
_ALIVE_S: Final = 120.0
"""A probe gives a tally more often; a node without one for so long is not connected."""
_MAX_RECORDS_AT_START: Final = 20_000
"""Records of each partition."""
_MAX_NAMES: Final = 20_000
_MAX_NAME: Final = 253
"""Characters of a name of Kubernetes. Anybody who may write to the topics can write longer ones."""
_RATE_S: Final = 60
_RETRY_S: Final = 1.0
_BOUNDS_S: Final = 5.0
_RECORDS_PER_READ: Final = 5000
_QUIET_S: Final = 0.2


class _Status(msgspec.Struct, frozen=True):
    """A record of the status topic, of which every kind that is about a node has these."""

    cluster: Cluster
    node: Node


_decode_status: Final = msgspec.json.Decoder(_Status).decode


@dataclass(slots=True)
class NodeCount:
    """What is known of a node."""

    name: str
    first_at: float
    last_at: float
    flows: int = 0

    def is_alive(self, now: float) -> bool:
        """Return whether it has been heard of lately."""
        return now - self.last_at <= _ALIVE_S


class Census:
    """Counts what passes. One thread writes, any thread reads.

    A record from the future, which a node or another producer whose clock is ahead has dated, counts as one of now."""

    def __init__(self, cluster: str = "", clock: Callable[[], float] = time.time) -> None:
        """``cluster``: whose records count; empty: all."""
        self._cluster, self._clock = cluster, clock
        self._lock = threading.Lock()
        self._nodes: dict[str, NodeCount] = {}
        self._namespaces: dict[tuple[str, str], float] = {}
        self._seconds: dict[int, int] = {}
        """Flows of each second of the last minute."""
        self.started_at = clock()
        self.seen = 0
        self.kept = 0
        """Flows on the topic."""

    def add_flow(self, value: bytes, at: float) -> None:
        """Count a record of the topic of flows that Kafka took at a time. What is no flow is passed over."""
        try:
            flow = decode_flow(value)
        except ValueError:
            return
        if self._cluster not in {"", flow.cluster}:
            return
        now = self._clock()
        at = min(at, now)
        with self._lock:
            self.seen += 1
            self._note(flow.node_name, at, 1)
            for end in (flow.src, flow.dest):
                self._note_namespace(flow, end.namespace, at)
            # At a start, the last hour is read partition by partition.
            second, since = int(at), now - _RATE_S
            if second >= since:
                if second not in self._seconds:
                    self._seconds = {one: count for one, count in self._seconds.items() if one >= since}
                self._seconds[second] = self._seconds.get(second, 0) + 1

    def add_status(self, value: bytes, at: float) -> None:
        """Note the node that a status record is about."""
        try:
            found = _decode_status(value)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return
        if self._cluster in {"", found.cluster}:
            with self._lock:
                self._note(found.node, min(at, self._clock()), 0)

    def _note(self, node: str, at: float, flows: int) -> None:
        if not 0 < len(node) <= _MAX_NAME or (node not in self._nodes and len(self._nodes) >= _MAX_NAMES):
            return
        count = self._nodes.setdefault(node, NodeCount(node, at, at))
        count.last_at, count.flows = max(count.last_at, at), count.flows + flows

    def _note_namespace(self, flow: Flow, namespace: str, at: float) -> None:
        place = (flow.cluster, namespace)
        is_name = 0 < len(namespace) <= _MAX_NAME and len(flow.cluster) <= _MAX_NAME
        if is_name and (place in self._namespaces or len(self._namespaces) < _MAX_NAMES):
            self._namespaces[place] = max(at, self._namespaces.get(place, 0.0))

    def forget(self) -> None:
        """Drop what was not heard of for an hour."""
        since = self._clock() - HOUR_S
        with self._lock:
            self._nodes = {name: one for name, one in self._nodes.items() if one.last_at >= since}
            self._namespaces = {place: at for place, at in self._namespaces.items() if at >= since}

    def nodes(self) -> list[NodeCount]:
        """Return the nodes of the last hour, by name."""
        with self._lock:
            return sorted(self._nodes.values(), key=lambda one: one.name)

    def namespaces(self) -> list[tuple[str, str]]:
        """Return the clusters and namespaces that had flows in the last hour, sorted."""
        since = self._clock() - HOUR_S
        with self._lock:
            return sorted(place for place, at in self._namespaces.items() if at >= since)

    def rate(self) -> float:
        """Return flows per second over the last minute."""
        since = self._clock() - _RATE_S
        with self._lock:
            return sum(count for second, count in self._seconds.items() if second >= since) / _RATE_S

    @property
    def now(self) -> float:
        """The time by its clock."""
        return self._clock()


class CensusReader(Protocol):
    """A topic reader; see :class:`streams.kafka.reading.TopicReader`."""

    def bounds(self) -> dict[int, tuple[int, int]]: ...

    def at_time(self, timestamp_ms: int) -> dict[int, int]: ...

    def start(self, offsets: Mapping[int, int]) -> None: ...

    def take(self, max_records: int, wait_s: float) -> list[Record]: ...

    def close(self) -> None: ...


class CensusThread:
    """Reads the topics for a census, and begins again after an error."""

    def __init__(
        self, census: Census, open_readers: Callable[[], Iterable[CensusReader]], note: Callable[[str], None]
    ) -> None:
        """``open_readers`` returns readers of the topics of flows and of status, and raises ReadError."""
        self._census, self._open, self._note = census, open_readers, note
        self._problem: str | None = "Kafka has not been reached yet"
        self.turns = 0
        self._places: tuple[dict[int, int], dict[int, int]] = ({}, {})
        """Where to go on in each topic after an error, so that nothing is counted twice."""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="hubble-census", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join(_BOUNDS_S)

    def problem(self) -> str | None:
        """Return why the topics cannot be read, or None."""
        return self._problem

    def _run(self) -> None:
        while not self._stop.is_set():
            readers: list[CensusReader] = []
            try:
                readers.extend(self._open())
                self._read(*readers)
            except (ReadError, StopServiceError) as error:
                if self._problem != str(error):
                    log.warning("the flows cannot be read; retrying", role="hubble", error=str(error))
                self._problem = str(error)
                self._stop.wait(_RETRY_S)
            finally:
                for reader in readers:
                    reader.close()

    def _read(self, flows: CensusReader, status: CensusReader) -> None:
        for reader, places in zip((flows, status), self._places, strict=True):
            since, bounds = reader.at_time(int((self._census.now - HOUR_S) * 1000)), reader.bounds()
            places |= {
                at: max(since[at], end - _MAX_RECORDS_AT_START, min(end, places.get(at, 0)))
                for at, (_, end) in bounds.items()
            }
            reader.start(places)
        asked_at = float("-inf")
        while not self._stop.is_set():
            for record in flows.take(_RECORDS_PER_READ, _QUIET_S):
                self._census.add_flow(record.value, record.timestamp_ms / 1000)
                self._places[0][record.partition] = record.offset + 1
            for record in status.take(_RECORDS_PER_READ, 0):
                self._census.add_status(record.value, record.timestamp_ms / 1000)
                self._places[1][record.partition] = record.offset + 1
            if time.monotonic() - asked_at >= _BOUNDS_S:
                # Raises if Kafka cannot be reached, of which the reader itself says nothing.
                self._census.kept = sum(end - first for first, end in flows.bounds().values())
                self._census.forget()
                self._note("fetch")
                self._problem, asked_at = None, time.monotonic()
            self.turns += 1
