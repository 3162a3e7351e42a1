"""Records as JSON lines on stdout."""

from __future__ import annotations

from collections.abc import Sequence
from typing import BinaryIO

from enrich.runtime.process import Exit, StopServiceError


class StdoutSink:
    """One JSON object a line."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def write(self, values: Sequence[bytes]) -> None:
        """Write and flush."""
        try:
            self._stream.write(b"".join(value + b"\n" for value in values))
            self._stream.flush()
        except BrokenPipeError as error:
            raise StopServiceError("nobody reads the standard output any more", Exit.UNABLE) from error

    def close(self) -> None:
        """Nothing to let go."""
