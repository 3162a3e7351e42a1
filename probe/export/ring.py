"""The ring buffer of verdicts, read through a memory map of its pages: finished verdicts leave it as one array.

The layout is the kernel's (Documentation/bpf/ringbuf.rst): one page with the consumer's position; then, read-only, one
page with the producer's position, and the data, which is mapped twice in a row so that no entry wraps. An entry is an
8-byte header (the length, with bit 31 set while it is being written) and the payload. Our programs discard no entry and
write one size only, so a run of entries is a strided array.

Positions are byte counts that only grow. The number of a verdict is its position divided by the stride of 96 bytes: the
verdict at position 192,000 is number 2000, also after the ring has been written over many times.

The ring of another version may have longer or shorter verdicts, and so another stride. They are read by their own
layout, and leave as verdicts of this version.
"""

from __future__ import annotations

import mmap
from typing import Any, Final

import numpy as np

from enrich.wire.batch import VERDICT
from probe.kernel import bpf
from probe.kernel.description import converted
from probe.kernel.layout import distinct
from probe.kernel.maps import Maps

_HEADER: Final = 8
_BUSY: Final = np.uint32(1 << 31)


class Ring:
    """The reader's end of the ring. There is one reader; the class is not thread safe."""

    def __init__(self, maps: Maps) -> None:
        self.id = maps.ring_id
        self._maps = maps
        # The kernel rounds entries up to a multiple of 8.
        self.stride = _HEADER + -(-maps.verdict.itemsize // 8) * 8
        self._entry = np.dtype(
            {
                "names": ["length", "verdict"],
                "formats": ["<u4", maps.verdict],
                "offsets": [0, _HEADER],
                "itemsize": self.stride,
            }
        )
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
        """The number of the first verdict that has not been released."""
        return int(self._consumed[0]) // self.stride

    @property
    def next_number(self) -> int:
        """The number of the first verdict that :meth:`read` has not returned yet."""
        return self._next // self.stride

    @property
    def producer_number(self) -> int:
        """The number that the next verdict will get."""
        return int(self._produced[0]) // self.stride

    @property
    def unread(self) -> int:
        """How many verdicts have not been released."""
        return self.producer_number - self.consumer_number

    @property
    def capacity(self) -> int:
        """How many verdicts fit."""
        return self._size // self.stride

    def read(self, max_verdicts: int) -> tuple[int, np.ndarray[Any, np.dtype[np.void]]]:
        """Return a copy of the finished verdicts behind those read before, and the number of the first.

        There are at most ``max_verdicts`` of them, and the array is a :data:`VERDICT` array. Their place in the ring
        stays taken until :meth:`release`.
        """
        start = self._next
        waiting = min((int(self._produced[0]) - start) // self.stride, max_verdicts)
        if waiting <= 0:
            return start // self.stride, np.empty(0, VERDICT)
        offset = mmap.PAGESIZE + start % self._size
        entries = np.frombuffer(self._data, self._entry, waiting, offset)
        busy = np.flatnonzero(entries["length"] & _BUSY)
        finished = int(busy[0]) if len(busy) else waiting
        verdicts = converted(entries["verdict"][:finished].copy(), VERDICT)
        self._next = start + finished * self.stride
        return start // self.stride, verdicts

    def references(self) -> dict[str, set[int]]:
        """Return the numbers of the ledger in the verdicts that have not been released, by kind."""
        start = int(self._consumed[0])
        waiting = (int(self._produced[0]) - start) // self.stride
        entries = np.frombuffer(self._data, self._entry, waiting, mmap.PAGESIZE + start % self._size)
        return {kind: distinct(entries["verdict"][kind]) for kind in ("identity", "rule", "endpoint")}

    def release(self, up_to_number: int) -> None:
        """Advance the ring position: the kernel may write over all verdicts below this number."""
        position = up_to_number * self.stride
        if position > int(self._consumed[0]):
            self._consumed[0] = position

    def skip_to(self, number: int) -> None:
        """Release the verdicts below this number without reading them: the spool has them already."""
        self.release(number)
        self._next = max(self._next, number * self.stride)

    def lost(self) -> dict[str, int]:
        """Return how many verdicts the kernel could not write to the ring, as totals of its life by reason."""
        return self._maps.lost()

    def cut(self) -> dict[tuple[str, str], int]:
        """Return how many verdicts the kernel did not write on purpose, as totals of the ring's life by kind."""
        return self._maps.cut()

    def take_limited(self) -> list[tuple[int, int, int]]:
        """Return endpoint number, kind of verdict and count of what the limits have cut since the last call."""
        return self._maps.take_limited()

    def close(self) -> None:
        """Unmap the ring. The next reader starts at what was not released."""
        del self._consumed, self._produced
        self._consumer.close()
        self._data.close()
