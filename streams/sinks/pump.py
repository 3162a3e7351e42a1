"""The loop of a sink: read its topic as a group of its own, give the far end what it is to have, commit what it has.

A far end that is away is tried again, longer each time; meanwhile nothing is committed, and nobody else waits. What it
refuses for good is halved until the record is alone, and that goes to the dead-letter topic.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import structlog

from streams.kafka.records import Record
from streams.metrics.roles import SinkMetrics
from streams.sinks.sink import RefusedError, Sink, SinkError

log = structlog.get_logger("kubeweir.streams")

_MOST: Final = 2000
_WAIT_S: Final = 0.5
_FIRST_RETRY_S: Final = 0.5
_LONGEST_RETRY_S: Final = 10.0


class Reader(Protocol):
    """See :class:`streams.kafka.group.GroupReader`."""

    problem: str | None

    def take(self, most: int, wait_s: float) -> list[Record]: ...

    def commit(self, records: Sequence[Record]) -> None: ...

    def lag(self) -> int | None: ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Feed:
    """What a sink is to have."""

    name: str
    """Of the sink: in logs and metrics."""
    takes: Callable[[bytes], bool]
    """Whether a record is for it. Raises ValueError for what is no record."""


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
        self._far_end: str | None = None

    def problem(self) -> str | None:
        """What keeps it from its work, in words."""
        return self._reader.problem or self._far_end

    def run(self) -> None:
        """Until ``stop``. Raises StopServiceError."""
        self._metrics.add_sink(self._feed.name)
        try:
            while not self._stop.is_set():
                records = self._reader.take(_MOST, _WAIT_S)
                if self._pass_on(records) and records:
                    self._reader.commit(records)
                lag = self._reader.lag()
                if lag is not None:
                    self._metrics.lag.labels(self._feed.name).set(lag)
        finally:
            self._metrics.remove_sink(self._feed.name)
            self._reader.close()
            self._sink.close()

    def _pass_on(self, records: Sequence[Record]) -> bool:
        """Until the far end has all that it is to have. False: stopped before."""
        wanted = []
        for record in records:
            try:
                if self._feed.takes(record.value):
                    wanted.append(record)
            except ValueError as error:
                if not self._refuse(record, "no_record", str(error)):
                    return False
        return self._deliver(wanted)

    def _deliver(self, records: Sequence[Record]) -> bool:
        wait = _FIRST_RETRY_S
        while True:
            try:
                self._sink.write([record.value for record in records])
            except RefusedError as error:
                half = len(records) // 2
                if not half:
                    return self._refuse(records[0], "sink_refused", f"{self._feed.name}: {error}")
                return self._deliver(records[:half]) and self._deliver(records[half:])
            except SinkError as error:
                self._metrics.failures.labels(self._feed.name).inc()
                if self._far_end is None:
                    log.error("the far end cannot take records, trying on", sink=self._feed.name, error=str(error))
                self._far_end = str(error)
                if self._stop.wait(wait):
                    return False
                wait = min(wait * 2, _LONGEST_RETRY_S)
            else:
                self._far_end = None
                self._metrics.records.labels(self._feed.name).inc(len(records))
                return True

    def _refuse(self, record: Record, reason: str, error: str) -> bool:
        self._metrics.refused.labels(self._feed.name).inc()
        log.warning("dead letter", sink=self._feed.name, reason=reason, error=error, offset=record.offset)
        return self._send_dead_letter(record, reason, error)
