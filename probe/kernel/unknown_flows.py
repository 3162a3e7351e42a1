"""The ring of unknown flows: mid-flow packets that the programs dropped, to be looked up (``bpf/adoption.h``).

It is a ring buffer like that of verdicts, which :mod:`probe.export.ring` describes, but the kernel wakes its reader:
requests are few, and their connections wait.
"""

from __future__ import annotations

import mmap
import os
import select
from typing import Final

import numpy as np

from probe.kernel import bpf
from probe.kernel.layout import UNKNOWN_FLOW, Array
from probe.kernel.maps import Maps

_BUSY: Final = np.uint32(1 << 31)
_ENTRY: Final = np.dtype([("length", "<u4"), ("page", "<u4"), ("flow", UNKNOWN_FLOW)])


class UnknownFlows:
    """The reader's end of the ring. It is used by one thread."""

    def __init__(self, maps: Maps) -> None:
        self._fd = bpf.get(maps.folder / "unknown_flows")
        self._size = bpf.map_info(self._fd).max_entries
        page = mmap.PAGESIZE
        self._consumer = mmap.mmap(self._fd, page, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        self._data = mmap.mmap(self._fd, page + 2 * self._size, mmap.MAP_SHARED, mmap.PROT_READ, offset=page)
        self._consumed = np.frombuffer(self._consumer, "<u8", 1)
        self._produced = np.frombuffer(self._data, "<u8", 1)
        self._poll = select.poll()
        self._poll.register(self._fd, select.POLLIN)
        self._woken = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._poll.register(self._woken, select.POLLIN)

    def wait(self, timeout_s: float) -> None:
        """Wait until there is something to read, until :meth:`wake`, or until the time is over."""
        ready = self._poll.poll(timeout_s * 1000)
        if any(fd == self._woken for fd, _ in ready):
            os.eventfd_read(self._woken)

    def wake(self) -> None:
        """End the reader's wait. Any thread may call this."""
        os.eventfd_write(self._woken, 1)

    def read(self) -> Array:
        """Return a copy of all finished requests, an array of :data:`UNKNOWN_FLOW`, and release their place."""
        start = int(self._consumed[0])
        waiting = (int(self._produced[0]) - start) // _ENTRY.itemsize
        entries = np.frombuffer(self._data, _ENTRY, waiting, mmap.PAGESIZE + start % self._size)
        busy = np.flatnonzero(entries["length"] & _BUSY)
        finished = int(busy[0]) if len(busy) else waiting
        flows: Array = entries["flow"][:finished].copy()
        self._consumed[0] = start + finished * _ENTRY.itemsize
        return flows

    def close(self) -> None:
        """Unmap the ring. The next reader starts at what was not read."""
        del self._consumed, self._produced
        self._consumer.close()
        self._data.close()
        os.close(self._fd)
        os.close(self._woken)
