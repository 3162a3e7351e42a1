"""Writes records to the standard output, one JSON object per line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import BinaryIO

from enrich.runtime.process import Exit, StopServiceError


class StdoutSink:
    """Writes JSON lines to a stream."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def write(self, values: Sequence[bytes]) -> None:
        """Write and flush. Raises StopServiceError if the reader of a pipe has gone."""
        try:
            self._stream.write(b"".join(value + b"\n" for value in values))
            self._stream.flush()
        except BrokenPipeError as error:
            raise StopServiceError("the reader of standard output has ended", Exit.UNABLE) from error

    def close(self) -> None:
        """Do nothing: the stream belongs to the process."""
