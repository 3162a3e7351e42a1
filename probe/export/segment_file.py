"""The newest segment file of the spool, which is appended to and forced to the disk now and then."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Final

import structlog

from enrich.runtime.state_file import write_whole

log = structlog.get_logger("kubeweir.probe")

_SYNC_S: Final = 0.1


class SegmentFile:
    """A file that is open for appending, or none yet. It is not thread safe."""

    def __init__(self) -> None:
        self._descriptor = -1
        self._synced = time.monotonic()

    @property
    def is_open(self) -> bool:
        """Whether a file is open."""
        return self._descriptor >= 0

    def start(self, path: Path) -> None:
        """Go on with another file. Raises OSError; then the last one stays open."""
        descriptor = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self.close()
        self._descriptor = descriptor

    def append(self, block: bytes, size: int) -> None:
        """Append a block to the file, which has ``size`` bytes. Raises OSError; then nothing was appended."""
        try:
            write_whole(self._descriptor, block)
        except OSError:
            os.ftruncate(self._descriptor, size)
            raise

    def sync(self, *, now: bool = False) -> None:
        """Force the file to the disk, at most once in ``_SYNC_S`` unless ``now``.

        A kill loses nothing that was written. A power cut loses what the disk has not taken yet, and the ring as well:
        this bounds that loss to ``_SYNC_S``.
        """
        if not now and time.monotonic() - self._synced <= _SYNC_S:
            return
        self._synced = time.monotonic()
        try:
            os.fdatasync(self._descriptor)
        except OSError as error:
            log.warning("the spool's disk does not keep up: a power cut now would lose the newest batches",
                        error=error.strerror)  # fmt: skip

    def close(self) -> None:
        """Force everything to the disk and close the file, if one is open."""
        if self.is_open:
            self.sync(now=True)
            os.close(self._descriptor)
            self._descriptor = -1
