"""Records as JSON lines in a file that is rotated by size, and by age if so wished: what GKE's policy logger writes,
where it writes it.

A batch is written, flushed and synced before its offsets are committed. What a crash cut off in mid-line was not
committed and comes again, so it is removed at the next start.
"""

from __future__ import annotations

import gzip
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

import orjson

from enrich.runtime.process import Exit, StopServiceError
from streams.sinks.sink import SinkError

_TAIL = 1 << 16


class FileSink:
    """``path``, and ``path.1`` (the youngest) to ``path.<keep>``, ``.gz`` behind them if they are compressed."""

    def __init__(
        self,
        path: Path,
        max_bytes: int,
        keep: int,
        *,
        max_age_s: float | None = None,
        compress: bool = False,
        named: str = "",
    ) -> None:
        """``max_bytes``: a file is not grown past it, unless one record alone is larger. ``max_age_s``: nor longer than
        that after its first record. ``named``: what to call it in a message. Raises StopServiceError."""
        self._path, self._max_bytes, self._keep = path, max(1, max_bytes), keep
        self._max_age_s, self._compress = max_age_s, compress
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file, self._size = self._open()
        except OSError as error:
            what = named or f"WEIR_FILE_PATH={str(path)!r}"
            raise StopServiceError(f"{what} cannot be written: {error.strerror}", Exit.USAGE) from error

    def write(self, values: Sequence[bytes]) -> None:
        """Write, rotate where it is due, and sync."""
        try:
            if self._moved():
                self._reopen()
            if self._size and self._max_age_s is not None and time.time() - self._began >= self._max_age_s:
                self._rotate()
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
        if not self._size:
            self._began = time.time()
        self._size += len(chunk)

    def _rotate(self) -> None:
        self._file.close()
        if self._keep:
            self._shift()
            self._path.replace(self._numbered(1))
            if self._compress:
                _compress(self._numbered(1))
        else:
            self._path.unlink()
        self._file, self._size = self._open()

    def _shift(self) -> None:
        """Each rotated file becomes one older; the oldest goes."""
        start = len(self._path.name) + 1
        found = []
        for name in os.listdir(self._path.parent):  # noqa: PTH208 - names are enough
            digits, dot, kind = name[start:].partition(".")
            if name.startswith(f"{self._path.name}.") and digits.isdigit() and kind in ("", "gz"):
                found.append((int(digits), f"{dot}{kind}"))
        for number, ending in sorted(found, reverse=True):
            if number < self._keep:
                self._numbered(number, ending).replace(self._numbered(number + 1, ending))
            else:
                self._numbered(number, ending).unlink()

    def _numbered(self, number: int, ending: str = "") -> Path:
        return self._path.with_name(f"{self._path.name}.{number}{ending}")

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
        self._began = _began(self._path)
        return file, size


def _compress(path: Path) -> None:
    """Put a compressed file in its place; what a crash leaves half done is no file of a number."""
    made = path.with_name(f"{path.name}.gz.tmp")
    with path.open("rb") as plain, gzip.open(made, "wb", 6) as packed:
        shutil.copyfileobj(plain, packed, 1 << 20)
    with made.open("rb") as file:
        os.fsync(file.fileno())
    made.replace(path.with_name(f"{path.name}.gz"))
    path.unlink()


def _began(path: Path) -> float:
    """When a file's first record was written: as it says itself, for no file system keeps that for us."""
    with path.open("rb") as file:
        first = file.readline(_TAIL)
    try:
        return datetime.fromisoformat(orjson.loads(first)["timestamp"]).timestamp()
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError):
        return path.stat().st_mtime


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
