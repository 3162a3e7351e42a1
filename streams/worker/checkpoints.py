"""Reads and writes the checkpoints of a worker's partitions (:mod:`streams.worker.checkpoint` says what they are for).

They are read when the first input of a partition that this worker has got is about to be enriched, and written before
each commit. Neither keeps verdicts from being enriched: if Kafka does not let this worker read or write them, a gap
between two workers may go unnoticed, which is logged, and reported by the worker that comes next.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Collection, Mapping
from functools import partial
from typing import Any, Final

import structlog

from streams.kafka.connection import Connection, NoTopicError, ReadError
from streams.kafka.errors import topic_error
from streams.kafka.producer import RecordProducer
from streams.kafka.reading import TopicReader
from streams.settings import Settings
from streams.worker.checkpoint import MERGED_RECORDS, Checkpoint, newest
from streams.worker.sender import now_ms, until_queued

log = structlog.get_logger("kubeweir.streams")

_NEWEST_RECORDS: Final = 256
"""So many records from the end are read first: each partition that is not idle writes one every second."""
_MAX_RECORDS_TAKEN: Final = 20
_READ_PATIENCE_S: Final = 30.0
"""All attempts together: meanwhile nothing is enriched, and a rebalance of the group waits."""
_ATTEMPTS: Final = 3
_RETRY_S: Final = 1.0
_WRITE_PATIENCE_S: Final = 5.0
_REPORT_S: Final = 60.0
_NO_ANSWER: Final = "Kafka does not acknowledge them"


class Checkpoints:
    """The checkpoints of one worker, on its event loop."""

    def __init__(self, settings: Settings, producer: RecordProducer) -> None:
        self._settings, self._producer = settings, producer
        self._topic, self._group = settings.topics.checkpoints.name, settings.group("enrich")
        self._reported_at = float("-inf")
        self._unanswered: set[bytes] = set()
        """Keys of checkpoints that Kafka has not answered yet. They take room of the queue that all records share, so
        there is one of each partition at most."""

    async def read(self, partitions: Collection[int], needed: Collection[int]) -> dict[int, Checkpoint | None]:
        """Return the last checkpoint of each partition, None for those that have none or cannot be read.

        Those that are not ``needed`` may be left out."""
        keys = {self._key(partition): partition for partition in partitions}
        needed_keys = frozenset(map(self._key, needed))
        connection = self._settings.connection()
        problem, deadline = "", time.monotonic() + _READ_PATIENCE_S
        for attempt in range(_ATTEMPTS):
            if attempt:
                await asyncio.sleep(_RETRY_S)
            if time.monotonic() > deadline:
                break
            arguments = connection, self._topic, frozenset(keys), needed_keys
            try:
                found = await asyncio.to_thread(_read_newest, *arguments, deadline)
            except NoTopicError as error:
                problem = str(error)
                break
            except ReadError as error:
                problem = str(error)
            else:
                return {keys[key]: newest(values) for key, values in found.items()}
        log.error("checkpoints cannot be read: verdicts that vanished before now are not noticed",
                  partitions=sorted(partitions), error=problem)  # fmt: skip
        return dict.fromkeys(partitions)

    async def write(self, values: Mapping[int, bytes]) -> None:
        """Write the encoded checkpoints of partitions; return when Kafka has them, or after a moment without them."""
        keyed = {self._key(partition): value for partition, value in values.items()}
        late = keyed.keys() & self._unanswered
        writes = [self._write(key, value) for key, value in keyed.items() if key not in late]
        try:
            async with asyncio.timeout(_WRITE_PATIENCE_S):
                errors = [error for error in await asyncio.gather(*writes) if error is not None]
        except TimeoutError:
            self._report(_NO_ANSWER)
        else:
            if errors:
                self._report(topic_error(self._settings.connection(), errors[0], "WRITE", self._topic))
            elif late:
                self._report(_NO_ANSWER)

    async def _write(self, key: bytes, value: bytes) -> Any:
        """Write one checkpoint; return librdkafka's error, None if Kafka has it."""
        loop = asyncio.get_running_loop()
        written: asyncio.Future[Any] = loop.create_future()

        def on_delivery(error: Any, _message: Any) -> None:
            """Take the delivery report (poll thread)."""
            loop.call_soon_threadsafe(self._settle, key, written, error)

        await until_queued(partial(self._producer.offer, self._topic, key, value, now_ms(), on_delivery))
        self._unanswered.add(key)
        return await written

    def _settle(self, key: bytes, written: asyncio.Future[Any], error: Any) -> None:
        self._unanswered.discard(key)
        if not written.done():  # the caller may have given up
            written.set_result(error)

    def _report(self, problem: str) -> None:
        if time.monotonic() - self._reported_at > _REPORT_S:
            self._reported_at = time.monotonic()
            log.error("checkpoints cannot be written: verdicts that vanish before the next worker reads them are not "
                      "noticed", error=problem)  # fmt: skip

    def _key(self, partition: int) -> bytes:
        return f"{self._group}/{partition}".encode()


def _read_newest(
    connection: Connection, topic: str, keys: frozenset[bytes], needed: frozenset[bytes], deadline: float
) -> dict[bytes, deque[bytes]]:
    """Return the values of the last records of each key. A key without records has none of them if it is needed, and
    else may be left out: the whole topic is read only for what is needed. Raises :class:`ReadError`."""
    reader = TopicReader(connection, topic)
    try:
        bounds = reader.bounds()
        starts = {partition: max(first, end - _NEWEST_RECORDS) for partition, (first, end) in bounds.items()}
        found = _read(reader, starts, keys, deadline)
        if all(found[key] for key in needed):
            return {key: values for key, values in found.items() if values}
        if any(starts[place] > first for place, (first, _) in bounds.items()):
            found = _read(reader, {partition: first for partition, (first, _) in bounds.items()}, keys, deadline)
        return found
    finally:
        reader.close()


def _read(
    reader: TopicReader, starts: Mapping[int, int], keys: frozenset[bytes], deadline: float
) -> dict[bytes, deque[bytes]]:
    """Read from these offsets to the end."""
    found: dict[bytes, deque[bytes]] = {key: deque(maxlen=MERGED_RECORDS) for key in keys}
    reader.start(starts)
    while not reader.ended() >= starts.keys():
        if time.monotonic() > deadline:
            raise ReadError("the topic of checkpoints cannot be read to its end")
        for record in reader.take(_MAX_RECORDS_TAKEN, 0.2):
            if record.key in found and record.value:
                found[record.key].append(record.value)
    return found
