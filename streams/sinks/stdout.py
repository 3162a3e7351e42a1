"""Writes records to the standard output, one JSON object per line."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from typing import BinaryIO

from enrich.runtime.process import Exit, StopServiceError


class StdoutSink:
    """Writes JSON lines to a stream."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def write(self, values: Sequence[bytes]) -> None:
        """Write and flush. Raises StopServiceError if the reader of a pipe has gone, or a disk is full: how much of
        what waits was written is not known. The records are read again at the next start."""
        try:
            self._stream.write(b"".join(value + b"\n" for value in values))
            self._stream.flush()
        except BrokenPipeError as error:
            raise StopServiceError("the reader of standard output has ended", Exit.UNABLE) from error
        except OSError as error:
            # Python flushes once more at exit, and would complain again.
            with contextlib.suppress(OSError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())
            raise StopServiceError(f"standard output cannot be written: {error.strerror}", Exit.UNABLE) from error

    def close(self) -> None:
        """Do nothing: the stream belongs to the process."""
