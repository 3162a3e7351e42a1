"""What waits to be sent to one browser: bounded, filled by the thread that follows Kafka, emptied by the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from typing import Final

MAX_WAITING: Final = 40
"""Messages that wait, at most: those of ten seconds."""
MAX_BYTES: Final = 2 << 20
"""Bytes of messages that wait, at most; one message of any size may wait alone. A record may have 64 KiB."""


class Outbox:
    """Messages for one browser. A browser that takes them slower than they come is cut, because a view that is minutes
    behind looks like one that is not."""

    def __init__(self, loop: asyncio.AbstractEventLoop, max_waiting: int = MAX_WAITING) -> None:
        self._loop, self._max_waiting = loop, max_waiting
        self._waiting: deque[bytes] = deque()
        self._bytes = 0
        self._lock = threading.Lock()
        self._wake = asyncio.Event()
        self._ended = ""

    def put(self, message: bytes) -> bool:
        """Add a message, from any thread. Return False if the browser is cut, now or before."""
        if self._ended:
            return False
        with self._lock:
            is_full = len(self._waiting) >= self._max_waiting or self._bytes + len(message) > MAX_BYTES
            if not (is_full and self._waiting):
                self._waiting.append(message)
                self._bytes += len(message)
                is_full = False
        if is_full:
            self.end("slow")
            return False
        self._wake_up()
        return True

    def end(self, why: str) -> None:
        """Let the stream end, from any thread, with a word for the browser: slow, or stopping."""
        self._ended = self._ended or why
        if self._ended == "slow":
            # Its browser may take nothing for twenty seconds more, until the kernel gives it up.
            with self._lock:
                self._waiting.clear()
                self._bytes = 0
        self._wake_up()

    def _wake_up(self) -> None:
        # The loop may be closed meanwhile, when the server stops; nobody waits for messages then.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._wake.set)

    async def take(self, timeout_s: float) -> bytes | None:
        """Return the next message, an empty one if none has come in time, None at the end."""
        if not self._waiting and not self._ended:
            self._wake.clear()
            if not self._waiting and not self._ended:
                try:
                    await asyncio.wait_for(self._wake.wait(), timeout_s)
                except TimeoutError:
                    return b""
        if self._ended == "slow":
            return None
        with self._lock:
            if self._waiting:
                message = self._waiting.popleft()
                self._bytes -= len(message)
                return message
        return None if self._ended else b""

    @property
    def ended(self) -> str:
        """Why the stream ends; empty while it goes on."""
        return self._ended
