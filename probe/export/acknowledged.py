"""The spool's checkpoint, the file ``acked``: how far Kafka has acknowledged, and the losses of deleted segments.

It is one entry of 36 bytes that is overwritten in place. It has to be writable on a full disk: otherwise the spool
could not delete the segments that Kafka has, and the disk would stay full.
"""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path
from typing import Final, NamedTuple

from enrich.runtime.state_file import DamagedError, read_state, set_aside
from probe.export.segment import SpoolPosition

_CONTENT: Final = struct.Struct("<QQQQ")
_CRC: Final = struct.Struct("<I")


class Acknowledged(NamedTuple):
    """The content of the file ``acked``."""

    position: SpoolPosition
    """The first batch that Kafka may not have."""
    lost: int
    """Verdicts that were removed from segments which are deleted by now."""
    refused: int
    """Verdicts of batches that Kafka refused."""


class AcknowledgedFile:
    """The file ``acked``, open for reading and overwriting. It is not thread safe."""

    def __init__(self, path: Path) -> None:
        """Open the file. Anything but a regular file of this process's user is set aside. Raises OSError."""
        try:
            read_state(path)
        except FileNotFoundError:
            pass
        except DamagedError as error:
            set_aside(path, "spool", str(error), "all batches on disk are sent again; readers drop repeats")
        self._descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)

    def read(self) -> Acknowledged | None:
        """Return the content, None if the file is empty, torn or not ours."""
        entry = os.pread(self._descriptor, _CONTENT.size + _CRC.size, 0)
        content, crc = entry[: _CONTENT.size], entry[_CONTENT.size :]
        if len(entry) < _CONTENT.size + _CRC.size or _CRC.pack(zlib.crc32(content)) != crc:
            return None
        segment, ordinal, lost, refused = _CONTENT.unpack(content)
        return Acknowledged(SpoolPosition(segment, ordinal), lost, refused)

    def write(self, acknowledged: Acknowledged, *, sync: bool) -> None:
        """Overwrite the content; ``sync`` forces it to the disk. Raises OSError.

        It is one write(2) of a few bytes: a killed process leaves the old content or the new one.
        """
        content = _CONTENT.pack(*acknowledged.position, acknowledged.lost, acknowledged.refused)
        os.pwrite(self._descriptor, content + _CRC.pack(zlib.crc32(content)), 0)
        if sync:
            os.fdatasync(self._descriptor)

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)
