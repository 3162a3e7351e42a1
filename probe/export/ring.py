"""The ring buffer of verdicts, read by mapping its pages: finished rows leave it as one array.

Layout (kernel, Documentation/bpf/ringbuf.rst): one page with the consumer's position; then, read-only, one page with
the producer's position and the data, which is mapped twice in a row so that no record wraps. A record is an 8-byte
header (length, with bit 31 while it is being written and bit 30 if discarded) and the payload. Ours are all of one
size, so a run of records is a strided array.

A row's number is its position divided by the stride, for ever: positions only grow.
"""

from __future__ import annotations

import mmap
from typing import Any, Final

import numpy as np

from enrich.wire.batch import VERDICT
from probe.kernel import bpf
from probe.kernel.maps import Maps

_HEADER: Final = 8
STRIDE: Final = _HEADER + VERDICT.itemsize
"""Bytes from a record to the next; a record is rounded up to 8, which 96 is."""
_BUSY: Final = np.uint32(1 << 31)
_RECORD: Final = np.dtype([("length", "<u4"), ("page", "<u4"), ("row", VERDICT)])


class Ring:
    """The reader's end. Not thread safe; there is one reader."""

    def __init__(self, maps: Maps) -> None:
        self.id = maps.ring_id
        self._maps = maps
        self._size = bpf.map_info(maps.ring).max_entries
        page = mmap.PAGESIZE
        self._consumer = mmap.mmap(maps.ring, page, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        self._data = mmap.mmap(maps.ring, page + 2 * self._size, mmap.MAP_SHARED, mmap.PROT_READ, offset=page)
        # Aligned 8-byte loads and stores through an array are single instructions, as the kernel's protocol needs.
        self._consumed = np.frombuffer(self._consumer, "<u8", 1)
        self._produced = np.frombuffer(self._data, "<u8", 1)
        self._next = int(self._consumed[0])

    @property
    def consumer_number(self) -> int:
        """Number of the first row that has not been released."""
        return int(self._consumed[0]) // STRIDE

    @property
    def producer_number(self) -> int:
        """Number that the next row will get."""
        return int(self._produced[0]) // STRIDE

    @property
    def unread(self) -> int:
        """Rows that have not been released."""
        return self.producer_number - self.consumer_number

    @property
    def capacity(self) -> int:
        """Rows that fit."""
        return self._size // STRIDE

    def read(self, max_verdicts: int) -> tuple[int, np.ndarray[Any, np.dtype[np.void]]]:
        """The number of the first, and a copy of, the finished rows behind those read before; at most ``max_rows``.

        Does not free their place: :meth:`release` does.
        """
        start = self._next
        waiting = min((int(self._produced[0]) - start) // STRIDE, max_verdicts)
        if waiting <= 0:
            return start // STRIDE, np.empty(0, VERDICT)
        offset = mmap.PAGESIZE + start % self._size
        records = np.frombuffer(self._data, _RECORD, waiting, offset)
        busy = np.flatnonzero(records["length"] & _BUSY)
        finished = int(busy[0]) if len(busy) else waiting
        verdicts = records["row"][:finished].copy()
        self._next = start + finished * STRIDE
        return start // STRIDE, verdicts

    def release(self, up_to_number: int) -> None:
        """Give the place of all rows below this number back to the kernel."""
        position = up_to_number * STRIDE
        if position > int(self._consumed[0]):
            self._consumed[0] = position

    def skip_to(self, number: int) -> None:
        """Neither read nor keep the rows below this number: they are safe elsewhere."""
        self.release(number)
        self._next = max(self._next, number * STRIDE)

    def lost(self) -> dict[str, int]:
        """What the kernel could not put into the ring, in all, by reason."""
        return self._maps.lost()

    def close(self) -> None:
        """Unmap. What is not released will be read by the next reader."""
        del self._consumed, self._produced
        self._consumer.close()
        self._data.close()
