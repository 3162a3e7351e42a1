"""The bounded queue on disk between the ring and Kafka: what is in it survives the probe.

Segments of records; a record is its length, a CRC-32 and the batch (``enrich.records``). A record's place is its
segment and its ordinal there. After a kill, a torn tail is cut off: those rows are still in the ring, since the ring's
position moves only after the append.

When it is full, allows are thinned out of the oldest batches that have not been handed to the sender; then whole
batches, oldest first. Both are counted, and the next batch tells it.
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

from enrich.records import BatchError, Header, Verdict, decode_batch, encode_batch

log = structlog.get_logger("kubeweir.probe")

_HEAD: Final = struct.Struct("<II")
_SYNC_S: Final = 0.1


class Place(NamedTuple):
    """Where a record stands."""

    segment: int
    ordinal: int


@dataclass(slots=True)
class _Segment:
    path: Path
    records: int = 0
    bytes: int = 0


class Spool:
    """One writer (the drain), one reader (the sender), which may be two threads."""

    def __init__(self, folder: Path, max_bytes: int = 1 << 30, segment_bytes: int = 16 << 20) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._max_bytes = max_bytes
        self._segment_bytes = min(segment_bytes, max(max_bytes // 4, 1))
        self._lock = threading.RLock()
        self._written = threading.Event()
        self._dropped = 0
        self._last: Header | None = None
        self._segments: dict[int, _Segment] = {}
        self._file = -1
        self._acked = self._read_acked()
        self._recover()
        self._cursor = max(self._acked, Place(min(self._segments), 0))
        self._offset = self._offset_of(self._cursor)
        self._synced = time.monotonic()

    # --- state

    @property
    def last(self) -> Header | None:
        """The header of the last batch that was ever appended and is still known."""
        return self._last

    @property
    def lost_rows(self) -> int:
        """Rows that were thinned out or dropped because the spool was full, since the start."""
        return self._dropped

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return sum(segment.bytes for segment in self._segments.values())

    @property
    def records(self) -> int:
        """Batches that Kafka has not acknowledged."""
        with self._lock:
            total = sum(s.records for number, s in self._segments.items() if number >= self._acked.segment)
            return total - self._acked.ordinal

    # --- writing

    def append(self, value: bytes) -> None:
        """Add a batch; when this returns it survives the process. Raises OSError: nothing was added."""
        with self._lock:
            self._make_room(len(value) + _HEAD.size)
            number = max(self._segments)
            if self._segments[number].bytes + len(value) > self._segment_bytes and self._segments[number].records:
                number = self._begin(number + 1)
            segment = self._segments[number]
            block = _HEAD.pack(len(value), zlib.crc32(value)) + value
            try:
                _write_whole(self._file, block)
            except OSError:
                os.ftruncate(self._file, segment.bytes)
                raise
            segment.bytes += len(block)
            segment.records += 1
            self._last = decode_batch(value).header
            # A machine that loses power loses the ring too: the sync bounds what the disk may still owe.
            if time.monotonic() - self._synced > _SYNC_S:
                os.fdatasync(self._file)
                self._synced = time.monotonic()
        self._written.set()

    def _begin(self, number: int) -> int:
        if self._file >= 0:
            os.fdatasync(self._file)
            os.close(self._file)
        path = self._folder / f"{number:012d}.seg"
        self._file = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
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
                length, _ = _HEAD.unpack(file.read(_HEAD.size))
                value = file.read(length)
            self._cursor = Place(place.segment, place.ordinal + 1)
            self._offset += _HEAD.size + length
            return place, value

    def ack(self, place: Place) -> None:
        """Kafka has this batch and all before it. Segments behind are deleted; the last one stays."""
        with self._lock:
            self._acked = Place(place.segment, place.ordinal + 1)
            for number in [n for n in self._segments if n < place.segment]:
                self._segments.pop(number).path.unlink(missing_ok=True)
            # May lag behind after a crash: what is sent again has the same numbers.
            temporary = self._folder / "acked.new"
            temporary.write_text(f"{place.segment} {place.ordinal + 1}")
            temporary.rename(self._folder / "acked")

    # --- room

    def _make_room(self, wanted: int) -> None:
        if self.size + wanted <= self._max_bytes:
            return
        for keep_denied in (True, False):
            for number in sorted(self._segments):
                if number > self._cursor.segment or (number == self._cursor.segment and number < max(self._segments)):
                    self._thin(number, keep_denied=keep_denied)
                if self.size + wanted <= self._max_bytes:
                    return

    def _thin(self, number: int, *, keep_denied: bool) -> None:
        """Rewrite a segment without its allows, or without anything; what the sender has taken stays as it is."""
        segment = self._segments[number]
        blocks = []
        for ordinal, value in enumerate(list(_records(segment.path.read_bytes()))):
            taken = Place(number, ordinal) < self._cursor
            kept, lost = (value, 0) if taken or not value else (_denied_of(value) if keep_denied else _nothing(value))
            self._dropped += lost
            blocks.append(_HEAD.pack(len(kept), zlib.crc32(kept)) + kept)
        block = b"".join(blocks)
        if len(block) == segment.bytes:
            return
        if number == max(self._segments):
            self._begin(number + 1)
        temporary = segment.path.with_suffix(".new")
        temporary.write_bytes(block)
        temporary.rename(segment.path)
        log.warning("spool is full", segment=number, bytes_before=segment.bytes, bytes_after=len(block),
                    lost_rows=self._dropped)  # fmt: skip
        segment.bytes = len(block)

    # --- start

    def _read_acked(self) -> Place:
        try:
            segment, ordinal = (self._folder / "acked").read_text().split()
            return Place(int(segment), int(ordinal))
        except (FileNotFoundError, ValueError):
            return Place(0, 0)

    def _recover(self) -> None:
        for leftover in self._folder.glob("*.new"):
            leftover.unlink()
        for path in sorted(self._folder.glob("*.seg")):
            data = path.read_bytes()
            values = list(_records(data))
            whole = sum(_HEAD.size + len(value) for value in values)
            if whole < len(data):
                log.warning("spool had a torn tail, cut off", segment=path.name, bytes=len(data) - whole)
                os.truncate(path, whole)
            self._segments[int(path.stem)] = _Segment(path, len(values), whole)
            for value in values:
                if value:
                    self._last = decode_batch(value).header
        # A new file to write to: the reader's ordinals of the old ones never change.
        self._begin(max(self._segments, default=self._acked.segment) + 1)

    def _offset_of(self, place: Place) -> int:
        segment = self._segments.get(place.segment)
        if segment is None:
            self._cursor = Place(min(self._segments), 0)
            return 0
        values = list(_records(segment.path.read_bytes()))[: place.ordinal]
        return sum(_HEAD.size + len(value) for value in values)


def _records(data: bytes) -> Iterator[bytes]:
    """The whole records of a segment, up to the first that is not."""
    offset = 0
    while offset + _HEAD.size <= len(data):
        length, crc = _HEAD.unpack_from(data, offset)
        value = data[offset + _HEAD.size : offset + _HEAD.size + length]
        if len(value) < length or zlib.crc32(value) != crc:
            return
        yield value
        offset += _HEAD.size + length


def _write_whole(descriptor: int, block: bytes) -> None:
    view = memoryview(block)
    while view:
        view = view[os.write(descriptor, view) :]


def _nothing(value: bytes) -> tuple[bytes, int]:
    return b"", decode_batch(value).header.rows


def _denied_of(value: bytes) -> tuple[bytes, int]:
    """The batch with its denied and audited rows only, which says which numbers it kept; and how many it lost."""
    try:
        batch = decode_batch(value)
    except BatchError:
        return value, 0
    keep = (batch.rows["verdict"] & 0x7F) != Verdict.ALLOW
    if bool(keep.all()):
        return value, 0
    numbers = batch.numbers()[keep].astype(np.int64)
    edges = np.flatnonzero(np.diff(numbers) != 1) + 1
    runs = [(int(run[0]), len(run)) for run in np.split(numbers, edges) if len(run)]
    rows = batch.rows[keep]
    header = msgspec.structs.replace(
        batch.header, rows=len(rows), kept=runs, first=runs[0][0] if runs else batch.header.first
    )
    return encode_batch(header, rows), len(batch.rows) - len(rows)
