"""Reads verdicts of a window of time from the raw topic, each once, merged into arrays of a useful size."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from enrich.history.moments import moment
from enrich.render.merged_batch import MergedBatch, merge
from enrich.wire.batch import Batch, BatchError, decode_batch
from enrich.wire.whose import cluster_named, is_foreign
from streams.cli.advice_window import CannotSayError
from streams.kafka.connection import Connection
from streams.kafka.ranges import read_range
from streams.kafka.reading import TopicReader
from streams.kafka.records import Record

_FETCH_BYTES: Final = 4 << 20
_VERDICTS_AT_ONCE: Final = 65_536
_MAX_RINGS: Final = 20_000
"""Rings that are remembered. What a ring that is forgotten has sent twice is there twice."""
_MILLISECOND_NS: Final = 1_000_000
_AHEAD_NS: Final = 60_000_000_000


class RawBatches:
    """The verdicts of a window, to be read any number of times: each time the same ones."""

    def __init__(
        self, connection: Connection, topic: str, since_ns: int, until_ns: int | None, late_ns: int, cluster: str
    ) -> None:
        """``until_ns`` None: up to what Kafka has now. ``late_ns``: how much later batches are read that may be of the
        window all the same, because their node could not send them at once. ``cluster``: the only one that is read;
        empty: all.

        Raises :class:`~streams.kafka.connection.ReadError`, which reading does, too, and CannotSayError if nothing of
        the window is kept."""
        self.unreadable = 0
        """Records that could not be decoded, and were skipped."""
        self.why_unreadable = ""
        """Why the first of them could not."""
        self.complete_since_ns = since_ns
        """From here on nothing that was written is missing."""
        self._connection, self._topic, self._cluster = connection, topic, cluster
        self._since_ns, self._until_ns = since_ns, until_ns
        reader = TopicReader(connection, topic)
        try:
            bounds = reader.bounds()
            self._starts = reader.at_time(max(1, since_ns // _MILLISECOND_NS))
            # The broker sets the times of this topic, so they rise: everything behind a later record is later, too.
            last = {} if until_ns is None else reader.at_time((until_ns + late_ns) // _MILLISECOND_NS)
            self._ends = {one: min(end, last.get(one, end)) for one, (_, end) in bounds.items()}
            # Of the window of these partitions, retention may have removed some.
            cut = {one: first for one, (first, _) in bounds.items() if 0 < first >= self._starts[one]}
            self._emptied = sum(first == bounds[one][1] for one, first in cut.items())
            if self._emptied and not any(first < end for first, end in bounds.values()):
                raise CannotSayError(f"{topic} is empty: the verdicts that it had are no longer kept")
            kept = {one: min(first + 1, bounds[one][1]) for one, first in cut.items()}
            for record in read_range(reader, cut, kept, topic=topic):
                self.complete_since_ns = max(self.complete_since_ns, record.timestamp_ms * _MILLISECOND_NS)
        finally:
            reader.close()
        if until_ns is not None and self.complete_since_ns >= until_ns:
            raise CannotSayError(f"verdicts are kept from {moment(self.complete_since_ns)} on, and not before")

    def since(self, earliest_ns: int | None = None) -> Iterator[MergedBatch]:
        """Yield the verdicts whose first packet is in the window, each once. Those before ``earliest_ns`` may be
        missing."""
        for batch in self._merged(earliest_ns or 0):
            wall = batch.node_wall
            is_inside = wall >= self._since_ns
            if self._until_ns is not None:
                is_inside &= wall < self._until_ns
            yield batch if is_inside.all() else batch.pick(is_inside)

    def notes(self) -> list[str]:
        """Return what a person must know about the answer, as far as has been read."""
        found = []
        if self.complete_since_ns > self._since_ns:
            found.append(f"verdicts are kept from {moment(self.complete_since_ns)} on, and not before")
        if self._emptied:
            found.append(f"{self._emptied} partitions of {self._topic} are empty: what they had is no longer kept")
        if self.unreadable:
            found.append(f"{self.unreadable} records of {self._topic} cannot be read: {self.why_unreadable}")
        return found

    def _merged(self, earliest_ns: int) -> Iterator[MergedBatch]:
        waiting: list[Batch] = []
        verdicts = 0
        for batch in self._batches(earliest_ns):
            waiting.append(batch)
            verdicts += len(batch.verdicts)
            if verdicts >= _VERDICTS_AT_ONCE:
                yield merge(*waiting)
                waiting, verdicts = [], 0
        if waiting:
            yield merge(*waiting)

    def _batches(self, earliest_ns: int) -> Iterator[Batch]:
        """Yield the batches, each without the verdicts that its ring has sent before."""
        rings = _Rings()
        unreadable = 0
        reader = TopicReader(self._connection, self._topic, fetch_bytes=_FETCH_BYTES)
        try:
            starts = self._starts
            if earliest_ns > self._since_ns:
                # Verdicts are there after they were made, unless their node's clock is ahead of the broker's.
                later = reader.at_time(max(1, (earliest_ns - _AHEAD_NS) // _MILLISECOND_NS))
                starts = {one: max(start, later[one]) for one, start in starts.items()}
            for record in read_range(reader, starts, self._ends, topic=self._topic):
                try:
                    batch = self._decoded(record)
                except BatchError as error:
                    unreadable += 1
                    self.unreadable = max(self.unreadable, unreadable)
                    self.why_unreadable = self.why_unreadable or record.unread or str(error)
                    continue
                if batch is not None and len(batch.verdicts):
                    fresh = rings.fresh(record.partition, batch)
                    if len(fresh.verdicts):
                        yield fresh
        finally:
            reader.close()

    def _decoded(self, record: Record) -> Batch | None:
        """Return the batch; None if it is another cluster's. Raises BatchError."""
        try:
            batch = decode_batch(record.value)
        except BatchError:
            if not is_foreign(cluster_named(record.value.partition(b"\n")[0]), self._cluster):
                raise
            return None
        return None if is_foreign(batch.header.cluster, self._cluster) else batch


class _Rings:
    """Knows which verdicts of a ring were there before: its numbers only rise, and a probe may send a batch again."""

    def __init__(self) -> None:
        self._next: dict[tuple[int, str, str, str], int] = {}

    def fresh(self, partition: int, batch: Batch) -> Batch:
        """Return the part of a batch that is new."""
        header = batch.header
        key = partition, header.cluster, header.node, header.ring
        expected = self._next.pop(key, 0)
        self._next[key] = max(expected, header.covered.end)
        if len(self._next) > _MAX_RINGS:
            del self._next[next(iter(self._next))]
        return batch if header.first >= expected else batch.pick(batch.numbers() >= expected)
