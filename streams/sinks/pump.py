"""The loop of a sink: read a topic, write the records that the sink wants, and commit what the destination has stored.

THEORY OF OPERATION

1. The pump reads up to 2,000 records with a consumer group of its own, so that a slow destination delays no other
   reader.
2. Records of other clusters that share the topic are counted and skipped. Values that are not records go to the
   dead-letter topic; records that the sink does not want are skipped.
3. The others are written. If the destination is away (SinkError), the pump retries with exponential backoff: after 0.5
   s, 1 s, 2 s, ... up to every 10 s. Meanwhile it reads and commits nothing: this is the backpressure that keeps
   records in Kafka. It stays a member of its group, so that the others get and keep their partitions.
4. If the destination refuses records permanently (RefusedError), the batch is halved and each half written alone. Of
   2,000 records with one bad one, about 22 writes later 1,999 are stored, and the bad one is in the dead-letter topic.
5. Only then are the offsets committed. A kill between 3 and 5 repeats the records: delivery is at least once.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Final, Protocol

import structlog

from streams.kafka.records import Record
from streams.metrics.roles import SinkMetrics
from streams.sinks.feed import Feed
from streams.sinks.sink import RefusedError, Sink, SinkError

log = structlog.get_logger("kubeweir.streams")

_MAX_RECORDS_PER_WRITE: Final = 2000
_POLL_S: Final = 0.5
_FIRST_BACKOFF_S: Final = 0.5
_MAX_BACKOFF_S: Final = 10.0


class Reader(Protocol):
    """See :class:`streams.kafka.group.GroupReader`."""

    problem: str | None

    def take(self, max_records: int, wait_s: float) -> list[Record]: ...

    def wait(self, seconds: float, stop: threading.Event) -> bool: ...

    def commit(self, records: Sequence[Record]) -> None: ...

    def lag(self) -> int | None: ...

    def close(self) -> None: ...


class Pump:
    """One sink at work.

    ``send_dead_letter`` takes record, reason and error. It returns True when Kafka has the record, False if the
    service was stopped before."""

    def __init__(
        self,
        feed: Feed,
        sink: Sink,
        reader: Reader,
        send_dead_letter: Callable[[Record, str, str], bool],
        metrics: SinkMetrics,
        stop: threading.Event,
    ) -> None:
        self._feed, self._sink, self._reader, self._send_dead_letter = feed, sink, reader, send_dead_letter
        self._metrics, self._stop = metrics, stop
        self._destination_problem: str | None = None

    def problem(self) -> str | None:
        """Return why records are not stored at the moment, or None."""
        return self._reader.problem or self._destination_problem

    def run(self) -> None:
        """Work until ``stop`` is set. Raises StopServiceError."""
        self._metrics.add_sink(self._feed.name)
        try:
            while not self._stop.is_set():
                records = self._reader.take(_MAX_RECORDS_PER_WRITE, _POLL_S)
                if self._process(records) and records:
                    self._reader.commit(records)
                lag = self._reader.lag()
                if lag is not None:
                    self._metrics.lag.labels(self._feed.name).set(lag)
        finally:
            self._metrics.remove_sink(self._feed.name)
            self._reader.close()
            self._sink.close()

    def _process(self, records: Sequence[Record]) -> bool:
        """Return True when the destination has stored all records that the sink wants, False if stopped before."""
        accepted = []
        own = [record for record in records if self._feed.is_own(record.value)]
        self._metrics.foreign.labels(self._feed.name).inc(len(records) - len(own))
        for record in own:
            try:
                if self._feed.takes(record.value):
                    accepted.append(record)
            except ValueError as error:
                if not self._refuse(record, "no_record", str(error)):
                    return False
        return self._write(accepted)

    def _write(self, records: Sequence[Record]) -> bool:
        backoff = _FIRST_BACKOFF_S
        while True:
            try:
                self._sink.write([record.value for record in records])
            except RefusedError as error:
                half = len(records) // 2
                if not half:
                    return self._refuse(records[0], "sink_refused", f"{self._feed.name}: {error}")
                self._reader.wait(0.0, self._stop)
                return self._write(records[:half]) and self._write(records[half:])
            except SinkError as error:
                self._metrics.failures.labels(self._feed.name).inc()
                if self._destination_problem is None:
                    log.error("the destination cannot take records; retrying", sink=self._feed.name, error=str(error))
                self._destination_problem = str(error)
                if self._reader.wait(backoff, self._stop):
                    return False
                backoff = min(backoff * 2, _MAX_BACKOFF_S)
            else:
                self._destination_problem = None
                self._metrics.records.labels(self._feed.name).inc(len(records))
                return True

    def _refuse(self, record: Record, reason: str, error: str) -> bool:
        """Send a record to the dead-letter topic. Return False if stopped before."""
        self._metrics.refused.labels(self._feed.name).inc()
        log.warning("dead letter", sink=self._feed.name, reason=reason, error=error, offset=record.offset)
        return self._send_dead_letter(record, reason, error)
