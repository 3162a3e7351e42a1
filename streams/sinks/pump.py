"""The loop of a sink: read a topic, write the records that the sink wants, and commit what the destination has stored.

THEORY OF OPERATION

1. The pump reads up to 2,000 records with a consumer group of its own, so that a slow destination delays no other
   reader.
2. Records of other clusters that share the topic are counted and skipped. Values that are not records go to the
   dead-letter topic; records that the sink does not want are skipped.
3. The others are written. If the destination is away (SinkError), the pump retries with exponential backoff: after 0.5
   s, 1 s, 2 s, ... up to every 10 s. Meanwhile it reads and commits nothing: this is the backpressure that keeps
   records in Kafka. It stays a member of its group, so that the others get and keep their partitions. After
   ``WEIR_STALL`` seconds without success it leaves its own partitions to the other members, if there are any
   (:mod:`streams.kafka.handover`), unless the destination has asked to be left alone.
4. If the destination refuses records permanently (RefusedError), those of the refused request are halved and each half
   is written alone. Of 2,000 records with one bad one, about 22 writes later 1,999 are stored, and the bad one is in
   the dead-letter topic. Records that an earlier request has stored are not written again. While a right to write
   dead letters is missing, the pump waits as in 3.
5. If the destination has stored records except some that it does not name (PartlyRefusedError), none of them is written
   again; the rejected ones are counted.
6. Only then are the offsets committed. A kill before repeats the records: delivery is at least once. A stop commits the
   records up to the first one that is not stored.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, Protocol, TypeVar

import structlog

from streams.kafka.dead_letters import NoDeadLettersError
from streams.kafka.records import Record
from streams.metrics.roles import SinkMetrics
from streams.sinks.feed import Feed
from streams.sinks.sink import PartlyRefusedError, RefusedError, Sink, SinkError

log = structlog.get_logger("kubeweir.streams")

T = TypeVar("T")

_MAX_RECORDS_PER_WRITE: Final = 2000
_POLL_S: Final = 0.5
_FIRST_BACKOFF_S: Final = 0.5
_MAX_BACKOFF_S: Final = 10.0
_MAX_RETRY_AFTER_S: Final = 300.0
"""A destination may ask to be left alone for days by mistake."""
_SLOW_WRITE_S: Final = 30.0
"""A write that takes longer is a problem, although each of its requests may be answered in time."""


class Reader(Protocol):
    """See :class:`streams.kafka.group.GroupReader`."""

    problem: str | None
    is_writing: bool

    def take(self, max_records: int, wait_s: float) -> list[Record]: ...

    def wait(self, seconds: float, stop: threading.Event) -> bool: ...

    def during(self, work: Callable[[], T], /) -> T: ...

    def fail(self) -> bool: ...

    def succeed(self) -> None: ...

    def leave(self, why: str, /) -> None: ...

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
        self._write_started_at: float | None = None
        self._leaves: str | None = None
        """Why the rest of the records is left to other members of the group."""

    def problem(self) -> str | None:
        """Return why records are not stored at the moment, or None."""
        return self._reader.problem or self._destination_problem or self._slow_write()

    def run(self) -> None:
        """Work until ``stop`` is set. Raises StopServiceError."""
        self._metrics.add_sink(self._feed.name)
        try:
            while not self._stop.is_set():
                records = self._reader.take(_MAX_RECORDS_PER_WRITE, _POLL_S)
                done = self._process(records)
                # Without records, too: where a new group begins is committed once its first write, which may be of none
                # of them, has ended.
                if done or not (records or self._leaves is not None or self._stop.is_set()):
                    self._reader.commit(done)
                if self._leaves is not None:
                    self._reader.leave(self._leaves)
                    self._leaves = None
                lag = self._reader.lag()
                if lag is not None:
                    self._metrics.lag.labels(self._feed.name).set(lag)
        finally:
            self._metrics.remove_sink(self._feed.name)
            try:
                self._reader.close()
            finally:
                self._sink.close()

    def _process(self, records: Sequence[Record]) -> Sequence[Record]:
        """Return the records that are done with; see :meth:`_write`."""
        accepted = []
        own = [(number, one) for number, one in enumerate(records) if one.unread or self._feed.is_own(one.value)]
        self._metrics.foreign.labels(self._feed.name).inc(len(records) - len(own))
        for number, record in own:
            if record.unread:
                if not self._refuse(record, "too_large", record.unread):
                    return []
                continue
            try:
                if self._feed.takes(record.value):
                    accepted.append((number, record))
            except ValueError as error:
                if not self._refuse(record, "no_record", str(error)):
                    return []
        done = self._write([record for _, record in accepted])
        return records if done == len(accepted) else records[: accepted[done][0]]

    def _write(self, records: Sequence[Record]) -> int:
        """Return how many of the first records are done with: all of them, unless the service stops before, or the rest
        is left to others."""
        backoff, done = _FIRST_BACKOFF_S, 0
        parts = [records]  # the next one is the last
        while parts:
            part = parts.pop()
            try:
                self._write_part(part)
            except SinkError as error:
                self._report(error)
                parts.append(part[self._stored(error.done) :])
                done += error.done
                # A destination that asks to be left alone would ask the others, too.
                if not error.retry_after_s and self._is_left(str(error)):
                    return done
                if self._reader.wait(max(backoff, min(error.retry_after_s, _MAX_RETRY_AFTER_S)), self._stop):
                    return done
                backoff = min(backoff * 2, _MAX_BACKOFF_S)
                continue
            except RefusedError as error:
                rest = part[self._stored(error.done) :]
                done += error.done
                tried = rest[: error.tried]
                parts += [rest[len(tried) :]] if len(rest) > len(tried) else []
                if len(tried) > 1 and not isinstance(error, PartlyRefusedError):
                    half = len(tried) // 2
                    parts += [tried[half:], tried[:half]]
                else:
                    given_up = self._give_up(tried, error)
                    done += given_up
                    if given_up < len(tried):
                        return done
                if self._reader.wait(0.0, self._stop):
                    return done
            else:
                done += self._stored(len(part))
            self._destination_problem, backoff = None, _FIRST_BACKOFF_S
        return done

    def _write_part(self, part: Sequence[Record]) -> None:
        """Write some records, and let it be seen that this goes on. Raises what the sink raises."""
        self._write_started_at, self._reader.is_writing = time.monotonic(), bool(part)
        try:
            self._reader.during(partial(self._sink.write, [record.value for record in part]))
        finally:
            self._write_started_at, self._reader.is_writing = None, False

    def _slow_write(self) -> str | None:
        started_at = self._write_started_at
        if started_at is None:
            return None
        taken_s = time.monotonic() - started_at
        return f"a write has taken {taken_s:.0f} s so far" if taken_s > _SLOW_WRITE_S else None

    def _is_left(self, why: str) -> bool:
        """Return whether the rest is left to other members of the group, because this one has failed for long."""
        if self._reader.fail():
            self._leaves = why
        return self._leaves is not None

    def _stored(self, number: int) -> int:
        if number:
            self._reader.succeed()
        self._metrics.count_stored(self._feed.name, number)
        return number

    def _report(self, error: Exception) -> None:
        self._metrics.failures.labels(self._feed.name).inc()
        if self._destination_problem is None:
            log.error("the destination cannot take records; retrying", sink=self._feed.name, error=str(error))
        self._destination_problem = str(error)

    def _give_up(self, tried: Sequence[Record], error: RefusedError) -> int:
        """Give up a refused record, or what the destination has rejected among some; return how many are done with.

        A record that is known to be refused is a dead letter. Of records that are partly rejected none is known."""
        rejected = error.rejected if isinstance(error, PartlyRefusedError) else len(tried)
        if rejected >= len(tried):
            for number, record in enumerate(tried):
                if not self._refuse(record, "sink_refused", f"{self._feed.name}: {error}"):
                    return number
            self._reader.succeed()  # the destination has answered, and no other member would get further
            return len(tried)
        self._metrics.refused.labels(self._feed.name).inc(rejected)
        log.error(
            "the destination has rejected some records, and does not say which ones; they are missing there",
            sink=self._feed.name, rejected=rejected, of=len(tried), error=str(error),
        )  # fmt: skip
        self._stored(len(tried) - rejected)
        return len(tried)

    def _refuse(self, record: Record, reason: str, error: str) -> bool:
        """Send a record to the dead-letter topic. Return False if stopped before, or if it is left to others."""
        self._metrics.refused.labels(self._feed.name).inc()
        log.warning("dead letter", sink=self._feed.name, reason=reason, error=error, offset=record.offset)
        backoff = _FIRST_BACKOFF_S
        while True:
            try:
                return self._reader.during(partial(self._send_dead_letter, record, reason, error))
            except NoDeadLettersError as refused:
                self._report(refused)
                if self._is_left(str(refused)) or self._reader.wait(backoff, self._stop):
                    return False
                backoff = min(backoff * 2, _MAX_BACKOFF_S)
