"""The body of a watch as it comes: all that is there, at one read.

The API server makes a chunk of every event, and urllib3 gives a chunk at a time: of a hundred thousand pods, a fifth of
the time. So the connection's own buffer is read, and the chunks' framing (RFC 9112, 7.1) is taken off here.

Nothing public gives that buffer: `read1` of urllib3 and of http.client end at each chunk too. Where a later urllib3
keeps it elsewhere, its chunks are taken, which is right and slow; a test fails then.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import structlog

log = structlog.get_logger("kubeweir.source")

_BLOCK: Final = 1 << 18
_LONGEST_FRAME: Final = 1 << 14
"""Of a chunk's size with what may stand behind it."""


class BrokenStreamError(OSError):
    """It ended before its end, or is not framed as it should be."""


def blocks(response: Any) -> Iterator[bytes]:
    """The body of a urllib3 response, a block for what one read has found.

    Raises :class:`BrokenStreamError`, TimeoutError, and what else the socket and urllib3 raise.
    """
    if not response.chunked or "content-encoding" in response.headers:
        yield from response.stream(_BLOCK, decode_content=True)
        return
    try:
        read = response._fp.fp.read1
    except AttributeError as error:
        log.warning("this urllib3 does not show its connection's buffer, the watch is slower", error=str(error))
        yield from response.stream(_BLOCK, decode_content=True)
        return
    framing = Chunks()
    while not framing.ended:
        got = read(_BLOCK)
        if not got:
            raise BrokenStreamError("the connection ended in the middle of an answer")
        if block := framing.strip(got):
            yield block


class Chunks:
    """Takes the framing off."""

    def __init__(self) -> None:
        self.ended = False
        """The last chunk has come."""
        self._left = 0
        self._rest = b""

    def strip(self, got: bytes) -> bytes:
        """What chunks hold, of the next bytes."""
        got, at, parts = self._rest + got, 0, []
        while not self.ended:
            if self._left:
                part = got[at : at + self._left]
                parts.append(part)
                at += len(part)
                self._left -= len(part)
                if self._left:
                    break
            end = got.find(b"\r\n", at)
            if end < 0:
                break
            # An empty line is the end of the chunk before.
            if end > at:
                self._begin(got[at:end])
            at = end + 2
        self._rest = got[at:]
        if len(self._rest) > _LONGEST_FRAME:
            raise BrokenStreamError("a chunk's size has no end")
        return b"".join(parts)

    def _begin(self, size: bytes) -> None:
        try:
            self._left = int(size.partition(b";")[0], 16)
        except ValueError as error:
            raise BrokenStreamError(f"{size[:40]!r} is no chunk's size") from error
        self.ended = self._left == 0
