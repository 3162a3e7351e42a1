"""The bounded queue on disk between the ring and Kafka: what is in it survives the probe.

Segments of records; a record is its length, the rows that were taken out of it, a CRC-32, and the batch
(``enrich.records``). A record's place is its segment and its ordinal there. After a kill, a torn tail is cut off: those
rows are still in the ring, since the ring's position moves only after the append.

When it is full, allows are thinned out of the oldest batches that have not been handed to the sender; then whole
batches, oldest first. Both are counted, in the record that lost them, so that a count is never apart from its loss,
whenever the process is killed; the next batch tells it.
"""

from __future__ import annotations

import os
import struct
import threading
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
import numpy as np
import structlog

from enrich.records import Batch, BatchError, Header, Verdict, decode_batch, encode_batch

log = structlog.get_logger("kubeweir.probe")

_HEAD: Final = struct.Struct("<III")
_SYNC_S: Final = 0.1


class Place(NamedTuple):
    """Where a record stands."""

    segment: int
    ordinal: int


class _Record(NamedTuple):
    value: bytes
    """The batch; empty where all of it was dropped."""
    lost: int
    """Rows that were taken out."""


class _Acked(NamedTuple):
    """What Kafka has, and what is known of segments that are deleted; the file ``acked``."""

    place: Place
    """The first record that Kafka may not have."""
    lost: int
    """Rows taken out of deleted segments."""
    refused: int
    """Rows that Kafka refused for what they are."""


@dataclass(slots=True)
class _Segment:
    path: Path
    records: int = 0
    bytes: int = 0
    lost: int = 0
    thinned: int = 0
    """1: without its allows; 2: without its rows. So that a full spool is not searched again for what is gone."""


class Spool:
    """One writer (the drain), one reader (the sender), which may be two threads."""

    def __init__(self, folder: Path, max_bytes: int = 1 << 30, segment_bytes: int = 16 << 20) -> None:
        """Raises OSError where the folder cannot be made, read or written."""
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self.max_bytes = max_bytes
        self._segment_bytes = min(segment_bytes, max(max_bytes // 4, 1))
        self._lock = threading.RLock()
        self._written = threading.Event()
        self._last: Header | None = None
        self._segments: dict[int, _Segment] = {}
        self._file = -1
        self._acked = self._read_acked()
        self._recover()
        self._cursor = self._acked.place
        self._offset = self._offset_of(self._cursor)
        self._synced = time.monotonic()

    # --- state

    @property
    def last(self) -> Header | None:
        """The header of the last batch that was ever appended and is still known."""
        return self._last

    @property
    def lost_rows(self) -> int:
        """Rows that were thinned out or dropped because the spool was full, in the spool's life."""
        with self._lock:
            return self._acked.lost + sum(segment.lost for segment in self._segments.values())

    @property
    def refused_rows(self) -> int:
        """Rows that Kafka refused, in the spool's life."""
        return self._acked.refused

    @property
    def size(self) -> int:
        """Bytes on disk."""
        with self._lock:
            return sum(segment.bytes for segment in self._segments.values())

    @property
    def records(self) -> int:
        """Batches that Kafka has not acknowledged."""
        with self._lock:
            return sum(segment.records for segment in self._segments.values()) - self._acked.place.ordinal

    # --- writing

    def append(self, value: bytes) -> None:
        """Add a batch; when this returns it survives the process. Raises OSError: nothing was added."""
        with self._lock:
            self._make_room(len(value) + _HEAD.size)
            number = max(self._segments)
            if self._segments[number].bytes + len(value) > self._segment_bytes and self._segments[number].records:
                number = self._begin(number + 1)
            segment = self._segments[number]
            block = _pack(_Record(value, 0))
            try:
                _write_whole(self._file, block)
            except OSError:
                os.ftruncate(self._file, segment.bytes)
                raise
            segment.bytes += len(block)
            segment.records += 1
            self._last = decode_batch(value).header
            self._sync()
        self._written.set()

    def _sync(self) -> None:
        """A machine that loses power loses the ring too: this bounds what the disk may still owe."""
        if time.monotonic() - self._synced > _SYNC_S:
            os.fdatasync(self._file)
            self._synced = time.monotonic()

    def _begin(self, number: int) -> int:
        path = self._folder / f"{number:012d}.seg"
        file = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
        if self._file >= 0:
            os.fdatasync(self._file)
            os.close(self._file)
        self._file = file
        self._segments[number] = _Segment(path)
        return number

    def close(self) -> None:
        """Write all that is known to disk."""
        os.fdatasync(self._file)
        os.close(self._file)

    # --- reading

    def next(self, timeout_s: float) -> tuple[Place, bytes] | None:
        """The next batch for the sender, None if none comes in time. Empty bytes: dropped, only to be acknowledged."""
        found = self._next()
        if found is None and timeout_s > 0:
            self._written.clear()
            found = self._next()
            if found is None and self._written.wait(timeout_s):
                found = self._next()
        return found

    def _next(self) -> tuple[Place, bytes] | None:
        with self._lock:
            place = self._cursor
            segment = self._segments[place.segment]
            if place.ordinal >= segment.records:
                later = [number for number in self._segments if number > place.segment]
                if not later:
                    return None
                self._cursor, self._offset = Place(min(later), 0), 0
                return self._next()
            with segment.path.open("rb") as file:
                file.seek(self._offset)
                length, _, _ = _HEAD.unpack(file.read(_HEAD.size))
                value = file.read(length)
            self._cursor = Place(place.segment, place.ordinal + 1)
            self._offset += _HEAD.size + length
            return place, value

    def ack(self, place: Place, refused: int = 0) -> None:
        """Kafka has this batch and all before it, ``refused`` more rows of them excepted.

        Segments behind are deleted; the last one stays.
        """
        with self._lock:
            old = [number for number in self._segments if number < place.segment]
            self._acked = _Acked(
                Place(place.segment, place.ordinal + 1),
                self._acked.lost + sum(self._segments[number].lost for number in old),
                self._acked.refused + refused,
            )
            gone = [self._segments.pop(number).path for number in old]
            try:
                # May lag behind after a crash: what is sent again has the same numbers.
                temporary = self._folder / "acked.new"
                temporary.write_text(" ".join(map(str, (*self._acked.place, self._acked.lost, self._acked.refused))))
                temporary.rename(self._folder / "acked")
                for path in gone:
                    path.unlink(missing_ok=True)
            except OSError as error:
                log.warning("what Kafka has cannot be noted, a restart sends it again", error=error.strerror)

    # --- room

    def _make_room(self, wanted: int) -> None:
        """Thin what is between the sender and the newest batch: that one's header tells the next start where to go on.

        The sender holds at most a quarter of the limit (see the publisher), a segment is a quarter: so there is room.
        """
        newest = max((number for number, segment in self._segments.items() if segment.records), default=0)
        for level in (1, 2):
            for number in sorted(self._segments):
                if self.size + wanted <= self.max_bytes:
                    return
                if self._cursor.segment <= number < newest and self._segments[number].thinned < level:
                    self._thin(number, level)

    def _thin(self, number: int, level: int) -> None:
        """Rewrite a segment without its allows (1) or its rows (2); what the sender has taken stays as it is."""
        segment = self._segments[number]
        thin = _without_allows if level == 1 else _without_rows
        records = [
            record if Place(number, ordinal) < self._cursor else thin(record)
            for ordinal, record in enumerate(_records(segment.path.read_bytes()))
        ]
        block = b"".join(map(_pack, records))
        temporary = segment.path.with_suffix(".new")
        try:
            with temporary.open("wb") as file:
                file.write(block)
                file.flush()
                os.fsync(file.fileno())
            temporary.rename(segment.path)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
        before, segment.bytes = segment.bytes, len(block)
        segment.lost = sum(record.lost for record in records)
        segment.thinned = level
        log.warning("spool is full", segment=number, bytes_before=before, bytes_after=segment.bytes,
                    lost_rows=self.lost_rows)  # fmt: skip

    # --- start

    def _read_acked(self) -> _Acked:
        try:
            segment, ordinal, lost, refused = map(int, (self._folder / "acked").read_text().split())
        except (FileNotFoundError, ValueError):
            return _Acked(Place(0, 0), 0, 0)
        return _Acked(Place(segment, ordinal), lost, refused)

    def _recover(self) -> None:
        for leftover in self._folder.glob("*.new"):
            leftover.unlink()
        for path in sorted(self._folder.glob("*.seg")):
            if int(path.stem) < self._acked.place.segment:
                path.unlink()  # its losses are in the file already
                continue
            data = path.read_bytes()
            records = list(_records(data))
            whole = sum(_HEAD.size + len(record.value) for record in records)
            if whole < len(data):
                log.warning("spool had a torn tail, cut off", segment=path.name, bytes=len(data) - whole)
                os.truncate(path, whole)
            lost = sum(record.lost for record in records)
            self._segments[int(path.stem)] = _Segment(path, len(records), whole, lost)
            self._last = next((h for r in reversed(records) if (h := _header_of(r.value))), self._last)
        # A new file to write to: the reader's ordinals of the old ones never change.
        first = min(self._segments, default=self._acked.place.segment + 1)
        self._begin(max(self._segments, default=self._acked.place.segment) + 1)
        place = self._acked.place
        known = self._segments[place.segment].records if place.segment in self._segments else 0
        place = Place(place.segment, min(place.ordinal, known)) if known else Place(first, 0)
        self._acked = self._acked._replace(place=place)

    def _offset_of(self, place: Place) -> int:
        records = list(_records(self._segments[place.segment].path.read_bytes()))[: place.ordinal]
        return sum(_HEAD.size + len(record.value) for record in records)


def _pack(record: _Record) -> bytes:
    value, lost = record
    return _HEAD.pack(len(value), lost, zlib.crc32(value, lost)) + value


def _records(data: bytes) -> Iterator[_Record]:
    """The whole records of a segment, up to the first that is not."""
    offset = 0
    while offset + _HEAD.size <= len(data):
        length, lost, crc = _HEAD.unpack_from(data, offset)
        value = data[offset + _HEAD.size : offset + _HEAD.size + length]
        # Zeros are what a file system may leave at the end after a power cut: no record, though the sum is right.
        if len(value) < length or zlib.crc32(value, lost) != crc or not (length or lost):
            return
        yield _Record(value, lost)
        offset += _HEAD.size + length


def _write_whole(descriptor: int, block: bytes) -> None:
    view = memoryview(block)
    while view:
        view = view[os.write(descriptor, view) :]


def _batch_of(value: bytes) -> Batch | None:
    try:
        return decode_batch(value)
    except BatchError:
        return None


def _header_of(value: bytes) -> Header | None:
    batch = _batch_of(value)
    return batch.header if batch else None


def _without_rows(record: _Record) -> _Record:
    batch = _batch_of(record.value)
    # A heartbeat says nothing that the next batch does not; one that holds no rows must not look like no record.
    return record if batch is None or not batch.header.rows + record.lost else _dropped(batch.header, record.lost)


def _dropped(header: Header, lost: int) -> _Record:
    return _Record(b"", lost + header.rows)


def _without_allows(record: _Record) -> _Record:
    """The batch with its denied and audited rows only, which says which numbers it kept."""
    batch = _batch_of(record.value)
    if batch is None:
        return record
    keep = (batch.rows["verdict"] & 0x7F) != Verdict.ALLOW
    if bool(keep.all()):
        return record
    numbers = batch.numbers()[keep].astype(np.int64)
    edges = np.flatnonzero(np.diff(numbers) != 1) + 1
    runs = [(int(run[0]), len(run)) for run in np.split(numbers, edges) if len(run)]
    rows = batch.rows[keep]
    header = msgspec.structs.replace(
        batch.header, rows=len(rows), kept=runs, first=runs[0][0] if runs else batch.header.first
    )
    return _Record(encode_batch(header, rows), record.lost + len(batch.rows) - len(rows))
