"""The spool: batches on disk between the ring buffer and Kafka, up to a size. They survive the probe.

Theory of operation, by an example: Kafka has all verdicts below number 1000, the ring holds those from 1000 to 2999.

1. The drain reads them and appends batch A (1000 to 1999) and batch B (2000 to 2999). An append ends with write(2) to
   the newest segment file, after which the batch survives a kill of the process.
2. After each append, and not before, the drain advances the ring position: to 2000 after A, to 3000 after B. The
   kernel may then write over those verdicts. So a verdict is in the ring, in the spool, or for a moment in both.
3. The publisher takes A and B with :meth:`Spool.next` and sends them. When Kafka has acknowledged A, :meth:`Spool.ack`
   writes the position behind A into the file ``acked``. A segment is deleted once Kafka has all its batches.

What a kill at each moment leaves for the next start:

- While B is being appended: its checksum is wrong, so the torn tail is cut off. The ring position is still 2000; the
  drain reads 2000 to 2999 again, and they keep their numbers.
- Between the append of B and the release: the spool's last header says "first 2000, 1000 verdicts", so the drain moves
  the ring position to 3000 before it reads.
- After Kafka has B and before that is noted: B is sent again. Readers deduplicate by ring and verdict number.

A full spool first removes allows and reports of connections from its oldest batches that the publisher has not taken,
then whole batches, oldest first. Each removal is counted in the stored entry that lost the verdicts, and the header of
the next batch reports it. These counts are totals of the spool's life, which is longer than a ring's. What remains of
the batches says which numbers were removed, so that readers do not take them for a gap.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
from pathlib import Path
from typing import Final

import structlog

from enrich.runtime.private import make_private_folder
from enrich.wire.batch import Header
from enrich.wire.numbering import REFUSED, SPOOL_FULL
from probe.export.acknowledged import Acknowledged, AcknowledgedFile
from probe.export.recovery import recover
from probe.export.segment import (
    HEAD,
    Counts,
    Segment,
    SpooledBatch,
    SpoolPosition,
    UnsentBatch,
    header_of,
    join,
    pack,
    thin,
    verdicts_in_unreadable,
    whole_batches,
)
from probe.export.segment_file import SegmentFile

log = structlog.get_logger("kubeweir.probe")

_ALLOWS: Final = 1
_ALL_VERDICTS: Final = 2
_MAX_HANDED_ON_HEADERS: Final = 256
"""Headers of appended batches that are kept for the publisher; with a longer backlog it decodes them from disk."""


class Spool:
    """Batches on disk. It has one writer (the drain) and one reader (the publisher), which may be two threads."""

    def __init__(
        self, folder: Path, max_bytes: int = 1 << 30, segment_bytes: int = 16 << 20, *, lazy: bool = False
    ) -> None:
        """Open the spool in ``folder``, or create it; ``lazy`` leaves that to :meth:`open`. See :attr:`problem`."""
        self._folder = folder
        self.max_bytes = max_bytes
        self._segment_bytes = min(segment_bytes, max(max_bytes // 4, 1))
        self._lock = threading.RLock()
        self._appended = threading.Event()
        self._headers: dict[SpoolPosition, Header] = {}
        self._file = SegmentFile()
        self._segments: dict[int, Segment] = {}
        self._last_header: Header | None = None
        self._acknowledged = Acknowledged(SpoolPosition(0, 0), 0, 0)
        self._cursor, self._offset = SpoolPosition(0, 0), 0
        self._acknowledged_file: AcknowledgedFile | None = None
        self._counts = self._count()
        """Read without the lock: a disk that does not answer may hold it for minutes, and health must not."""
        self.problem: str | None = "the disk of the spool has not answered yet"
        """Why the spool is not open, in words; None if it is."""
        if not lazy:
            self.open()

    def open(self) -> bool:
        """Open the spool if it is not; return whether it is open. What is damaged on disk is set aside."""
        with self._lock:
            if self._file.is_open:
                return True
            try:
                self._open()
            except OSError as error:
                self.problem = f"the spool cannot be opened: {error.filename or self._folder}: {error.strerror}"
                self._file.close()
                return False
            self.problem = None
        return True

    def _open(self) -> None:
        make_private_folder(self._folder, files="*")
        self._acknowledged_file = self._acknowledged_file or AcknowledgedFile(self._folder / "acked")
        self._segments, self._last_header, self._acknowledged = recover(self._folder, self._acknowledged_file.read())
        # Appends go to a new file, so that the ordinals of the old ones never change under the reader.
        self._start_segment(max(self._segments, default=self._acknowledged.position.segment - 1) + 1)
        with contextlib.suppress(OSError):
            # Written at once, so that the file has its block while the disk has one to give.
            self._write_acknowledged(self._acknowledged)
        self.rewind()
        self._counts = self._count()

    # --- state

    @property
    def last_header(self) -> Header | None:
        """The header of the newest batch, sent or not; None if no segment holds one."""
        return self._last_header

    def lost(self) -> dict[str, int]:
        """Return the verdicts that will not reach Kafka, as totals of the spool's life: those that were removed to make
        room (``spool_full``), and those of batches that Kafka ``refused``."""
        return dict(self._counts.lost)

    @property
    def size(self) -> int:
        """The bytes of all segments on disk."""
        return self._counts.bytes

    @property
    def unacked_batches(self) -> int:
        """The number of batches that Kafka has not acknowledged."""
        return self._counts.unacked

    def _count(self) -> Counts:
        full = self._acknowledged.lost + sum(segment.lost for segment in self._segments.values())
        lost = {SPOOL_FULL: full, REFUSED: self._acknowledged.refused}
        return Counts.of(self._segments, self._acknowledged.position, lost)

    # --- writing

    def append(self, value: bytes, header: Header) -> None:
        """Append an encoded batch, whose header is ``header``; when this returns, the batch survives the process.

        Raises OSError if the disk does not take it; then nothing was appended.
        """
        with self._lock:
            try:
                self._append(value, header)
            finally:
                self._counts = self._count()
        self._file.sync()
        self._appended.set()

    def _append(self, value: bytes, header: Header) -> None:
        self._make_room(len(value) + HEAD.size)
        number = max(self._segments)
        if self._segments[number].bytes + len(value) > self._segment_bytes and self._segments[number].batches:
            number = self._start_segment(number + 1)
        segment = self._segments[number]
        block = pack(SpooledBatch(value, 0))
        self._file.append(block, segment.bytes)
        if len(self._headers) < _MAX_HANDED_ON_HEADERS:
            self._headers[SpoolPosition(number, segment.batches)] = header
        segment.bytes += len(block)
        segment.batches += 1
        self._last_header = header

    def _start_segment(self, number: int) -> int:
        path = self._folder / f"{number:012d}.seg"
        self._file.start(path)
        self._segments[number] = Segment(path)
        return number

    def close(self) -> None:
        """Force everything to the disk and close the files."""
        self._file.close()
        if self._acknowledged_file is not None:
            self._acknowledged_file.close()

    # --- reading

    def next(self, timeout_s: float) -> UnsentBatch | None:
        """Return the next batch to send, None if none is appended within the timeout."""
        found = self._next()
        if found is None and timeout_s > 0:
            self._appended.clear()
            found = self._next()
            if found is None and self._appended.wait(timeout_s):
                found = self._next()
        return found

    def _next(self) -> UnsentBatch | None:
        if not self._file.is_open:
            return None
        with self._lock:
            position = self._cursor
            segment = self._segments[position.segment]
            if position.ordinal >= segment.batches:
                later = [number for number in self._segments if number > position.segment]
                if not later:
                    return None
                self._cursor, self._offset = SpoolPosition(min(later), 0), 0
                return self._next()
            with segment.path.open("rb") as file:
                file.seek(self._offset)
                length, _, _ = HEAD.unpack(file.read(HEAD.size))
                value = file.read(length)
            self._cursor = SpoolPosition(position.segment, position.ordinal + 1)
            self._offset += HEAD.size + length
            header = self._headers.pop(position, None) or header_of(value)
            return UnsentBatch(position, value, header, 0 if header else verdicts_in_unreadable(value))

    def rewind(self) -> None:
        """Hand out again, with :meth:`next`, every batch that Kafka has not acknowledged."""
        if not self._file.is_open:
            return  # open() does it, and holds the lock while the disk does not answer
        with self._lock:
            if self._file.is_open:
                self._cursor = self._acknowledged.position
                stored = whole_batches(self._segments[self._cursor.segment].path.read_bytes())
                self._offset = sum(taken.stored_bytes for taken in itertools.islice(stored, self._cursor.ordinal))

    def ack(self, position: SpoolPosition, refused: int = 0) -> None:
        """Note that Kafka has answered for this batch and all before it, and delete the segments before its own.

        ``refused`` is the number of verdicts in batches that Kafka refused since the last call.
        """
        with self._lock:
            answered = [number for number in self._segments if number < position.segment]
            acknowledged = Acknowledged(
                SpoolPosition(position.segment, position.ordinal + 1),
                self._acknowledged.lost + sum(self._segments[number].lost for number in answered),
                self._acknowledged.refused + refused,
            )
            try:
                self._write_acknowledged(acknowledged)
                for number in answered:
                    self._segments.pop(number).path.unlink(missing_ok=True)
            except OSError as error:
                log.warning("the spool cannot note what Kafka has acknowledged: a restart would send it again",
                            error=error.strerror, folder=str(self._folder))  # fmt: skip
                self._acknowledged = self._acknowledged._replace(
                    position=acknowledged.position, refused=acknowledged.refused
                )
            self._counts = self._count()

    def _write_acknowledged(self, acknowledged: Acknowledged) -> None:
        """Write the file ``acked``; changed counts of losses are forced to the disk at once."""
        if self._acknowledged_file is not None:
            self._acknowledged_file.write(acknowledged, sync=acknowledged[1:] != self._acknowledged[1:])
        self._acknowledged = acknowledged

    # --- making room

    def _bytes(self) -> int:
        return sum(segment.bytes for segment in self._segments.values())

    def _make_room(self, needed: int) -> None:
        """Thin out what lies between the publisher and the newest batch until ``needed`` bytes fit.

        The newest batch stays whole, because the next start continues after the number that its header gives. There is
        always room: what the publisher has taken is at most a quarter of the limit, and so is a segment.
        """
        excess = self._bytes() + needed - self.max_bytes
        newest = max((number for number, segment in self._segments.items() if segment.batches), default=0)
        for level in (_ALLOWS, _ALL_VERDICTS):
            for number, segment in sorted(self._segments.items()):
                if excess <= 0:
                    return
                if self._cursor.segment <= number < newest and segment.thinned < level:
                    before = self._bytes()
                    self._thin(number, level)
                    excess -= before - self._bytes()

    def _thin(self, number: int, level: int) -> None:
        """Remove allows (1) or all verdicts (2) from a segment, except what the publisher has taken."""
        segment = self._segments[number]
        before = segment.bytes
        if thin(segment, self._cursor.ordinal if number == self._cursor.segment else 0, level):
            self._headers = {position: header for position, header in self._headers.items() if position[0] != number}
            log.warning("the spool is full: verdicts were removed from its oldest batches, allowed ones first",
                        segment=segment.path.name, bytes_before=before, bytes_after=segment.bytes,
                        lost_verdicts=self._count().lost[SPOOL_FULL], setting="WEIR_SPOOL_BYTES")  # fmt: skip
        if level == _ALL_VERDICTS:
            self._join_to_earlier(number)

    def _join_to_earlier(self, number: int) -> None:
        """Join the summaries of a segment to those of the segment before it, so that they do not fill the spool."""
        earlier = max((one for one in self._segments if one < number), default=-1)
        untaken = earlier > self._cursor.segment or (earlier, 0) == self._cursor
        if untaken and self._segments[earlier].thinned == _ALL_VERDICTS:
            join(self._segments[earlier], self._segments[number])
            # Otherwise the next start deletes it.
            with contextlib.suppress(OSError):
                self._segments.pop(number).path.unlink(missing_ok=True)
