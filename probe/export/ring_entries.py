"""A ring buffer of the kernel, read through a memory map of its pages: finished entries leave it as one array.

The layout is the kernel's (Documentation/bpf/ringbuf.rst): one page with the consumer's position; then, read-only, one
page with the producer's position, and the data, which is mapped twice in a row so that no entry wraps. An entry is an
8-byte header (the length, with bit 31 set while it is being written) and the payload. Our programs discard no entry and
write one size only, so a run of entries is a strided array.

Positions are byte counts that only grow. The number of an entry is its position divided by the stride: with verdicts,
whose stride is 96 bytes, the one at position 192,000 is number 2000, also after the ring has been written over many
times.
"""

from __future__ import annotations

import mmap
from typing import Any, Final

import numpy as np

from probe.kernel import bpf
from probe.kernel.layout import Array

_HEADER: Final = 8
_BUSY: Final = np.uint32(1 << 31)


class RingEntries:
    """The reader's end of a ring. There is one reader; the class is not thread safe."""

    def __init__(self, fd: int, payload: np.dtype[Any]) -> None:
        # The kernel rounds entries up to a multiple of 8.
        self.stride = _HEADER + -(-payload.itemsize // 8) * 8
        self._entry = np.dtype(
            {
                "names": ["length", "payload"],
                "formats": ["<u4", payload],
                "offsets": [0, _HEADER],
                "itemsize": self.stride,
            }
        )
        self._size = bpf.map_info(fd).max_entries
        page = mmap.PAGESIZE
        self._consumer = mmap.mmap(fd, page, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        self._data = mmap.mmap(fd, page + 2 * self._size, mmap.MAP_SHARED, mmap.PROT_READ, offset=page)
        # Aligned 8-byte loads and stores through an array are single instructions, as the kernel's protocol needs.
        self._consumed = np.frombuffer(self._consumer, "<u8", 1)
        self._produced = np.frombuffer(self._data, "<u8", 1)
        self._next = int(self._consumed[0])

    @property
    def consumer_number(self) -> int:
        """The number of the first entry that has not been released."""
        return int(self._consumed[0]) // self.stride

    @property
    def next_number(self) -> int:
        """The number of the first entry that :meth:`read_entries` has not returned yet."""
        return self._next // self.stride

    @property
    def producer_number(self) -> int:
        """The number that the next entry will get."""
        return int(self._produced[0]) // self.stride

    @property
    def unread(self) -> int:
        """How many entries have not been released."""
        return self.producer_number - self.consumer_number

    @property
    def capacity(self) -> int:
        """How many entries fit."""
        return self._size // self.stride

    def read_entries(self, most: int) -> tuple[int, Array]:
        """Return a copy of the finished entries behind those read before, and the number of the first.

        There are at most ``most`` of them. Their place in the ring stays taken until :meth:`release`."""
        start = self._next
        waiting = min((int(self._produced[0]) - start) // self.stride, most)
        if waiting <= 0:
            return start // self.stride, np.empty(0, self._entry["payload"])
        offset = mmap.PAGESIZE + start % self._size
        entries = np.frombuffer(self._data, self._entry, waiting, offset)
        busy = np.flatnonzero(entries["length"] & _BUSY)
        finished = int(busy[0]) if len(busy) else waiting
        found: Array = entries["payload"][:finished].copy()
        self._next = start + finished * self.stride
        return start // self.stride, found

    def unreleased(self) -> Array:
        """Return the entries that have not been released, as a view of the ring; some may not be finished."""
        start = int(self._consumed[0])
        waiting = (int(self._produced[0]) - start) // self.stride
        entries = np.frombuffer(self._data, self._entry, waiting, mmap.PAGESIZE + start % self._size)
        found: Array = entries["payload"]
        return found

    def release(self, up_to_number: int) -> None:
        """Advance the ring position: the kernel may write over all entries below this number."""
        position = up_to_number * self.stride
        if position > int(self._consumed[0]):
            self._consumed[0] = position

    def skip_to(self, number: int) -> None:
        """Release the entries below this number without reading them: the spool has them already."""
        self.release(number)
        self._next = max(self._next, number * self.stride)

    def close(self) -> None:
        """Unmap the ring. The next reader starts at what was not released."""
        del self._consumed, self._produced
        self._consumer.close()
        self._data.close()
