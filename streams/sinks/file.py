"""Records as JSON lines in a file that is rotated by size: what GKE's policy logger writes, where it writes it.

A batch is written, flushed and synced before its offsets are committed. What a crash cut off in mid-line was not
committed and comes again, so it is removed at the next start.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from enrich.runtime.process import Exit, StopServiceError
from streams.sinks.sink import SinkError

_TAIL = 1 << 16


class FileSink:
    """``path``, and ``path.1`` (the youngest) to ``path.<keep>``."""

    def __init__(self, path: Path, max_bytes: int, keep: int) -> None:
        """``max_bytes``: a file is not grown past it, unless one record alone is larger. Raises StopServiceError."""
        self._path, self._max_bytes, self._keep = path, max(1, max_bytes), keep
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file, self._size = self._open()
        except OSError as error:
            raise StopServiceError(
                f"WEIR_FILE_PATH={str(path)!r} cannot be written: {error.strerror}", Exit.USAGE
            ) from error

    def write(self, values: Sequence[bytes]) -> None:
        """Write, rotate where it is due, and sync."""
        try:
            if self._moved():
                self._reopen()
            for chunk in self._chunks(values):
                if self._size and self._size + len(chunk) > self._max_bytes:
                    self._rotate()
                self._append(chunk)
        except OSError as error:
            raise SinkError(f"{self._path}: {error.strerror}") from error

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _chunks(self, values: Sequence[bytes]) -> Iterator[bytes]:
        """The lines, as many in one as a file has room for."""
        lines: list[bytes] = []
        size = self._size
        for value in values:
            if size and size + len(value) + 1 > self._max_bytes:
                if lines:
                    yield b"".join(lines)
                lines, size = [], 0
            lines.append(value + b"\n")
            size += len(value) + 1
        if lines:
            yield b"".join(lines)

    def _append(self, chunk: bytes) -> None:
        try:
            rest = memoryview(chunk)
            while rest:
                rest = rest[os.write(self._file.fileno(), rest) :]
            os.fsync(self._file.fileno())
        except OSError:
            # A part may have come down (a full disk); it is offered again whole.
            os.ftruncate(self._file.fileno(), self._size)
            raise
        self._size += len(chunk)

    def _rotate(self) -> None:
        self._file.close()
        if self._keep:
            for number in range(self._keep - 1, 0, -1):
                older = self._numbered(number)
                if older.exists():
                    older.replace(self._numbered(number + 1))
            self._path.replace(self._numbered(1))
        else:
            self._path.unlink()
        self._file, self._size = self._open()

    def _numbered(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{number}")

    def _moved(self) -> bool:
        """Whether someone else (logrotate) has moved the file away, or a rotation of ours failed half way."""
        if self._file.closed:
            return True
        try:
            there = self._path.stat()
        except FileNotFoundError:
            return True
        ours = os.fstat(self._file.fileno())
        return (there.st_dev, there.st_ino) != (ours.st_dev, ours.st_ino)

    def _reopen(self) -> None:
        self._file.close()
        self._file, self._size = self._open()

    def _open(self) -> tuple[BinaryIO, int]:
        # Unbuffered: a write that fails must leave nothing behind that a later one would bring along.
        file = self._path.open("ab", buffering=0)
        size = _whole_lines(self._path)
        os.ftruncate(file.fileno(), size)
        return file, size


def _whole_lines(path: Path) -> int:
    """Bytes up to the end of the last whole line."""
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        while end:
            start = max(0, end - _TAIL)
            file.seek(start)
            found = file.read(end - start).rfind(b"\n")
            if found >= 0:
                return start + found + 1
            end = start
    return 0
