"""Reads the messages of the client from standard input, so that a signal can end the server meanwhile.

A read of standard input cannot be cancelled. So a thread reads it, for which Python does not wait when it ends.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import sys
import threading
from collections.abc import Iterator
from typing import Final

import anyio
import anyio.from_thread
import anyio.lowlevel

MAX_MESSAGE: Final = 1 << 20
"""Bytes of a message. The largest that makes sense has policies in it."""
_PIECE: Final = 64 << 10
_ENDED: Final = (RuntimeError, anyio.BrokenResourceError, concurrent.futures.CancelledError)
"""What a thread gets that hands something to an event loop which has ended."""


class Messages:
    """The lines of a descriptor. They end where it ends, or with a line that is too long."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        # Without a buffer, the thread waits until the server has taken a line: a client cannot fill the memory.
        self._send, self._receive = anyio.create_memory_object_stream[str](0)
        self._loop = anyio.lowlevel.current_token()
        threading.Thread(target=self._read, daemon=True, name="stdin").start()

    def __aiter__(self) -> Messages:
        return self

    async def __anext__(self) -> str:
        try:
            return await self._receive.receive()
        except anyio.EndOfStream:
            self._receive.close()
            raise StopAsyncIteration from None

    def _read(self) -> None:
        with contextlib.suppress(*_ENDED):
            for line in self._lines():
                anyio.from_thread.run(self._send.send, line, token=self._loop)
            anyio.from_thread.run_sync(self._send.close, token=self._loop)

    def _lines(self) -> Iterator[str]:
        rest = b""
        # Not sys.stdin, whose lock this thread would still have when Python ends.
        while piece := self._next_piece():
            *lines, rest = (rest + piece).split(b"\n")
            for line in lines:
                yield line.decode(errors="replace")
            if len(rest) > MAX_MESSAGE:
                sys.stderr.write(f"weir: a message has more than {MAX_MESSAGE >> 20} MiB: the session ends\n")
                return

    def _next_piece(self) -> bytes:
        try:
            return os.read(self._descriptor, _PIECE)
        except OSError:
            return b""  # a terminal that has gone away
