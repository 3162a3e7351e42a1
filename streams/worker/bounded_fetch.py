"""Bounds in bytes on what Faust's client, aiokafka, holds of the topic before the enricher asks for it.

The client counts records, and inflates all that a producer has compressed. A batch of 8 MiB, the most that the topic
takes, may inflate to gigabytes; and 200 records of 8 MiB each are more than a worker has memory for. The records stay
in the topic, so the worker would end again at each start. So :func:`bound_client` puts five bounds into the client:

1. A compressed batch inflates to ``MAX_INFLATED`` at most. One that would inflate to more is passed over as a whole: in
   its place the worker gets one record without a value, at the last offset of the batch.
2. Of a value that is longer than :data:`MAX_VALUE`, the first 64 KiB are left, in the note. Keys and headers are
   dropped, because the enricher uses none.
3. The client hands over :data:`MAX_POLL` at a time, and a record, and keeps one large inflated batch for later.
4. It hands over nothing while there are :data:`MAX_READY` of values, and what may be in flight, that the enricher has
   not done with.
5. It asks no broker for more while it holds :data:`MAX_FETCHED`.

The client would end the worker at a batch whose checksum is wrong. It is passed over, too.

What is missing is noted in :data:`unread`, and becomes a dead letter. An example: a producer sends records 100 to 399
as one batch of 13 kB that inflates to 300 MB. The worker reads record 399, which has no value, and the note says that
100 to 399 were not read, and why.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import weakref
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from aiokafka.consumer import consumer, fetcher
from aiokafka.errors import GroupAuthorizationFailedError, TopicAuthorizationFailedError
from aiokafka.record import default_records, legacy_records
from aiokafka.record._crecords import default_records as compiled_records
from aiokafka.record._crecords import legacy_records as compiled_legacy_records
from aiokafka.structs import ConsumerRecord

from enrich.wire.topics import LARGE
from streams.kafka.dead_letter_form import CUT_VALUE_BYTES, originals
from streams.worker.inflate import INFLATE, last_size
from streams.worker.unread import Unread, UnreadRecords

log: Final = logging.getLogger("aiokafka.consumer.fetcher")

MAX_VALUE: Final = int(LARGE)
MAX_POLL: Final = 4 << 20
MAX_READY: Final = 64 << 20
MAX_FETCHED: Final = 16 << 20
_COUNTED: Final = 64 << 10
"""Shorter values are not counted: Faust's queue has a bound for their number."""
_REFUSED_S: Final = 1.0
SMALL_BATCH: Final = 1 << 20
"""Each partition may keep an inflated batch of this size, read in part."""

unread: Final[UnreadRecords] = {}
"""Notes for the worker, which removes them."""


@dataclass(slots=True)
class _Tally:
    """What the client holds. A process has one client that reads, on one thread."""

    fetched: int = 0
    """Bytes as brokers have sent them."""
    polled: int = 0
    """Bytes of the values that the running call hands over."""
    partly_read: weakref.ref[_BoundedRecords] | None = None
    """The reader of the one large inflated batch that is not read to its end."""
    values: int = 0
    """Bytes of the values that are still in use."""
    max_values: int = MAX_READY
    walked: dict[tuple[str, int], tuple[int, int]] = field(default_factory=dict)
    """For each partition, up to where it was read, and the offset of its last record."""


_tally: Final = _Tally()
_lock: Final = threading.RLock()


class _Value(bytes):
    """A value that counts for as long as it is in use."""

    def __new__(cls, value: bytes) -> _Value:
        with _lock:
            _tally.values += len(value)
        return super().__new__(cls, value)

    def __del__(self) -> None:
        with _lock:
            _tally.values -= len(self)


def bound_client(in_flight_bytes: int) -> None:
    """Put the bounds into aiokafka, for all of its consumers in this process. ``in_flight_bytes``: what the enricher
    may have in flight."""
    _tally.max_values = MAX_READY + in_flight_bytes
    for module in (default_records, compiled_records, legacy_records, compiled_legacy_records):
        for codec, inflate in INFLATE.items():
            setattr(module, f"{codec}_decode", inflate)
    fetcher.PartitionRecords, fetcher.FetchResult = _BoundedRecords, _BoundedResult
    consumer.Fetcher = _BoundedFetcher


def is_empty(topic: str, partition: int, start: int, end: int) -> bool:
    """Return whether the client has read a partition up to ``end``, and found no record from ``start`` on."""
    walked, last = _tally.walked.get((topic, partition), (0, 0))
    return walked >= end and last < start


class _BoundedFetcher(fetcher.Fetcher):  # type: ignore[misc]  # aiokafka's classes have no types
    async def fetched_records(self, *arguments: Any, **options: Any) -> Any:
        """Hand over some records of some partitions; none, after a while, if Kafka refuses to be read."""
        _tally.polled = 0
        try:
            return await super().fetched_records(*arguments, **options)
        except (GroupAuthorizationFailedError, TopicAuthorizationFailedError) as error:
            # Faust would end the worker. The right may be given again; the log's handler has the cause looked for.
            log.warning("Kafka refuses to be read: %r", error)
            await asyncio.sleep(_REFUSED_S)
            return {}


class _BoundedResult(fetcher.FetchResult):  # type: ignore[misc]  # as above
    """What a broker has sent of one partition."""

    _partition_records: Any

    def calculate_backoff(self) -> float:
        """Return how long its broker is asked for nothing."""
        own: float = super().calculate_backoff()
        return max(own, self._backoff) if _tally.fetched >= MAX_FETCHED else own

    def getall(self, max_records: int | None = None) -> list[Any]:
        """Return some records; an empty list, and keep them, if others were handed over already."""
        records = self._partition_records
        if not self.check_assignment(self._topic_partition) or records is None:
            if records is not None:
                records.release()
            return []
        if _tally.polled >= MAX_POLL or _tally.values >= _tally.max_values or not records.may_inflate():
            return []
        found: list[Any] = []
        for record in records:
            found.append(record)
            _tally.polled += len(record.value or b"")
            if len(found) == max_records or _tally.polled >= MAX_POLL:
                break
        else:
            self._partition_records = None
        self._assignment.state_value(self._topic_partition).consumed_to(records.next_fetch_offset)
        return found


class _BoundedRecords(fetcher.PartitionRecords):  # type: ignore[misc]  # as above
    """The records of what a broker has sent of one partition."""

    next_fetch_offset: int

    def __init__(self, tp: Any, records: Any, *rest: Any) -> None:
        super().__init__(tp, records, *rest)
        size = records.size_in_bytes()
        _tally.fetched += size
        weakref.finalize(self, _forget_fetched, size)

    def may_inflate(self) -> bool:
        """Return whether no other one keeps a large batch."""
        other = _tally.partly_read() if _tally.partly_read is not None else None
        return other is None or other is self

    def release(self) -> None:
        """Let others keep a large batch."""
        if _tally.partly_read is not None and _tally.partly_read() is self:
            _tally.partly_read = None

    def _unpack_records(self) -> Iterator[Any]:
        """Yield the records of all batches."""
        following = self._next_batch()
        while following is not None:
            # Only the reader has a batch: what was inflated must not be kept while its last record is on its way.
            batches, following = [following], self._next_batch()
            yield from self._read(batches.pop(), getattr(following, "base_offset", None))
            place = (self._tp.topic, self._tp.partition)
            _tally.walked[place] = (self.next_fetch_offset, _tally.walked.get(place, (0, -1))[1])

    def _next_batch(self) -> Any:
        return self._records.next_batch() if self._records.has_next() else None

    def _read(self, batch: Any, following: int | None) -> Iterator[Any]:
        """Yield the records of a batch, or one that stands for those that cannot be read. ``following``: the first
        offset of the next batch, None if that is not known."""
        if self._check_crcs and not batch.validate_crc():
            yield from self._pass_over_damaged(following)
            return
        end = batch.next_offset
        try:
            records = iter(() if batch.is_control_batch else batch)
            if batch.compression_type and last_size() > SMALL_BATCH:
                _tally.partly_read = weakref.ref(self)
            while (record := next(records, None)) is not None:
                if record.offset + 1 >= end:
                    # What was inflated must not be kept while the last record is on its way.
                    records, batch = iter(()), None
                    self.release()
                if record.offset >= self.next_fetch_offset:
                    yield self._copy(record.offset, record.timestamp, record.timestamp_type, record.value)
        except Exception as error:
            first = self.next_fetch_offset
            text = f"the batch of records {first} to {end - 1} was not read: {error}"
            yield self._stand_in(first, end, text, "too_large")
        finally:
            self.release()
            # Compaction may have removed the last record of a batch, and the end of a transaction is none.
            self.next_fetch_offset = max(self.next_fetch_offset, end)

    def _pass_over_damaged(self, following: int | None) -> Iterator[Any]:
        """Yield a record that stands for those of a batch whose checksum is wrong, as after damage on a broker's disk.

        Nothing in the batch is trusted, so also not where it ends. If no batch follows here, one offset is passed over,
        and the broker is asked for the next one: it sends this batch again, until its end. If it sends the batch
        although its records were passed over, there is nothing to do."""
        first = self.next_fetch_offset
        end = first + 1 if following is None else following
        if end > first:
            text = f"the records {first} to {end - 1} were not read: the checksum of their batch is wrong"
            yield self._stand_in(first, end, text, "damaged")

    def _stand_in(self, first: int, end: int, why: str, reason: str) -> Any:
        """Return a record that stands for those before ``end``, and note why they were not read."""
        unread[self._tp.partition, end - 1] = Unread(first, why, [], reason=reason)
        return self._copy(end - 1, -1, 0, None)

    def _copy(self, offset: int, timestamp: int, timestamp_type: int, value: bytes | None) -> Any:
        topic, partition = self._tp.topic, self._tp.partition
        if value is not None and len(value) > MAX_VALUE:
            text = f"the record has {len(value):,} bytes, and no batch has more than {MAX_VALUE:,}"
            unread[partition, offset] = Unread(offset, text, originals(value), value[:CUT_VALUE_BYTES])
            value = None
        if value is not None and len(value) >= _COUNTED:
            value = _Value(value)
        self.next_fetch_offset = offset + 1
        _tally.walked[topic, partition] = (offset + 1, offset)
        size = -1 if value is None else len(value)
        return ConsumerRecord(topic, partition, offset, timestamp, timestamp_type, None, value, None, -1, size, ())


def _forget_fetched(size: int) -> None:
    _tally.fetched -= size
