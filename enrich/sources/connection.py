"""One thread's connection to the API server: opened and left again and again, stopped from outside, and its progress.

A watch must know until when it is current, because a verdict is only attributed to a pod once every change up to the
verdict's time is in the index. The server does not say that it has nothing more to send, so :class:`ReadProgress`
measures it: a read that had to wait found nothing in the buffer, and so everything sent before was read.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from enrich.sources.client import Client
from enrich.sources.stream import blocks

_IDLE_NS: Final = 500_000
"""A read that waited for longer found nothing waiting: everything that was sent before it has been read."""
_RESUMED_NS: Final = 1_000_000_000
"""The same for a stream that was just resumed: the server has yet to send what happened since the resource version
that it was asked to resume from."""


class ReadProgress:
    """The moment until which everything that the server sent is in the index. One thread reads; any thread may ask."""

    def __init__(self) -> None:
        self.synced_ns = 0
        """The moment by the wall clock, as of the last read that waited; 0: there was none yet."""
        self._reading_since_ns = 0
        self._idle_ns = _IDLE_NS

    def begin(self, *, resumed: bool) -> None:
        """Start a stream."""
        self._idle_ns = _RESUMED_NS if resumed else _IDLE_NS

    def end(self) -> None:
        """End the stream."""
        self._reading_since_ns = 0

    def confirm(self) -> None:
        """Declare that the index is current now: the server has just answered that there is nothing."""
        self.synced_ns = time.time_ns()

    def before_read(self, *, listing: bool) -> int:
        """Note that a read begins, and return when. While a list is incomplete, nothing is in sync."""
        now = time.time_ns()
        self._reading_since_ns = 0 if listing else now
        return now

    def after_read(self, began_ns: int, *, listing: bool) -> None:
        """Note that the read that began then has returned."""
        now, self._reading_since_ns = time.time_ns(), 0
        if not listing and now - began_ns > self._idle_ns:
            self.synced_ns, self._idle_ns = now - _IDLE_NS, _IDLE_NS

    def synced_until_ns(self) -> int:
        """Return the moment of the wall clock until which the index is current; now, if a read has waited for long."""
        reading, now = self._reading_since_ns, time.time_ns()
        return now - _IDLE_NS if reading and now - reading > self._idle_ns else self.synced_ns


class Connection:
    """Requests of one thread. Any other thread may stop them, even while they wait for the server."""

    def __init__(self, client: Client) -> None:
        self.heard = time.monotonic()
        """When the server last sent anything."""
        self.progress = ReadProgress()
        self.stopping = threading.Event()
        self._client = client
        self._response: Any = None

    def stop(self) -> None:
        """End the request under way, and every later one."""
        self.stopping.set()
        response = self._response
        if response is not None:
            with contextlib.suppress(Exception):
                response.shutdown()

    @contextlib.contextmanager
    def open(self, path: str, query: Mapping[str, str], accept: str, silence_s: float) -> Iterator[Any]:
        """Open the response to a request; see :meth:`enrich.sources.client.Client.get` for arguments and errors."""
        try:
            with self._client.get(path, query, accept, silence_s) as response:
                self._response = response
                if self.stopping.is_set():
                    response.shutdown()
                self.heard = time.monotonic()
                yield response
        finally:
            self._response = None

    def lines(self, response: Any, listing: Callable[[], bool]) -> Iterator[bytes]:
        """Yield the lines of a stream, each one event. ``listing``: whether the stream's list is still incomplete.

        An event may be larger than a read, and a read may hold thousands of events."""
        rest = b""
        stream = blocks(response)
        while True:
            began_ns = self.progress.before_read(listing=listing())
            block = next(stream, None)
            self.progress.after_read(began_ns, listing=listing())
            self.heard = time.monotonic()
            if block is None:
                return
            *lines, rest = (rest + block).split(b"\n")
            yield from (line for line in lines if line)
