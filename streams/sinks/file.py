"""Writes records as JSON lines to a file that is rotated by size, and by age if configured.

With the preset ``gke`` it is the file that GKE's network policy logger writes. A batch is written and synced to disk
before its offsets are committed. A crash may leave a line that is cut off: it was not committed and will be written
again, so the next start truncates the file to its last whole line.
"""

from __future__ import annotations

import errno
import gzip
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, wait
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import BinaryIO, Final

import msgspec
import structlog

from enrich.runtime.process import Exit, StopServiceError
from enrich.runtime.work_thread import start_work
from streams.sinks.sink import SinkError

log = structlog.get_logger("kubeweir.streams")

_CHUNK_BYTES: Final = 1 << 16
_ANSWER_S: Final = 10.0
"""A file system that takes longer hangs, or is so slow that other outputs should not wait for it."""
_unanswered: Final[dict[Path, Future[None]]] = {}
"""The attempts to open a path that have not ended. A file of routes that cannot be applied is tried every ten seconds,
and each try makes its outputs anew: there is one thread for each path all the same."""


class _FirstRecord(msgspec.Struct):
    timestamp: str


class FileSink:
    """Writes ``path``; rotated files are ``path.1`` (the latest) to ``path.<keep>``, with ``.gz`` if compressed."""

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
        """A file is rotated before it would exceed ``max_bytes`` (a single larger record excepted), and ``max_age_s``
        after its first record. ``named`` is its name in error messages. Raises StopServiceError.

        On a file system that does not answer, such as one whose server is gone, only the writes wait: the caller has
        other outputs to start."""
        self._path, self._max_bytes, self._keep = path, max(1, max_bytes), keep
        self._max_age_s, self._compress = max_age_s, compress
        # Closed, so that the first write opens the path, if it does not answer now.
        self._file, self._size, self._started_at = _closed_file(), 0, 0.0
        try:
            if _answers(path):
                self._reopen()
        except OSError as error:
            what = named or f"WEIR_FILE_PATH={str(path)!r}"
            raise StopServiceError(f"{what} cannot be written: {error.strerror}", Exit.USAGE) from error

    def write(self, values: Sequence[bytes]) -> None:
        """Write the records, rotating as necessary, and sync them to disk. Raises SinkError."""
        try:
            if self._must_reopen():
                self._reopen()
            self._note_truncation()
            if self._size and self._max_age_s is not None and time.time() - self._started_at >= self._max_age_s:
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
        """Join records to chunks of lines, each of which fits into one file."""
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
            # A part may have been written (a full disk). The pump offers the whole batch again.
            _shorten(self._file, self._size)
            raise
        if not self._size:
            self._started_at = time.time()
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
        """Rename each rotated file to the next number, and delete the oldest."""
        start = len(self._path.name) + 1
        found = []
        for name in os.listdir(self._path.parent):  # noqa: PTH208 - only names are needed
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

    def _note_truncation(self) -> None:
        """Go on at the end of the file if another program (logrotate with copytruncate) has shortened it."""
        found = os.fstat(self._file.fileno()).st_size
        if found < self._size:
            self._size, self._started_at = found, time.time()

    def _must_reopen(self) -> bool:
        """Return whether another program (logrotate) moved the file away, or an earlier rotation failed half way."""
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
        _prepare(self._path)
        # Unbuffered: a failed write must not leave bytes in a buffer that a later write would flush.
        file = self._path.open("ab", buffering=0)
        size = _whole_lines(self._path)
        _shorten(file, size)
        self._started_at = _first_record_time(self._path)
        return file, size


def _prepare(path: Path) -> None:
    """Check that the path can be opened as a file; make its folder."""
    # Somebody may have removed the folder with the file.
    path.parent.mkdir(parents=True, exist_ok=True)
    # Opening a pipe without a reader blocks for ever, and would block every other sink of the file of routes.
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "it is not a regular file")


def _try_to_open(path: Path) -> None:
    """Open the path and close it. That may be much later, when another sink writes to it: so nothing is changed."""
    _prepare(path)
    with path.open("ab"):
        pass


def _answers(path: Path) -> bool:
    """Return whether the path's file system answers soon. Raises OSError if the path can be no file."""
    looking = _unanswered.get(path)
    if looking is None or looking.done():
        looking = _unanswered[path] = start_work(partial(_try_to_open, path), "open a file")
        wait([looking], _ANSWER_S)
    if not looking.done():
        log.error("a file system does not answer; the other outputs go on", path=str(path))
        return False
    _unanswered.pop(path, None)
    looking.result()
    return True


def _closed_file() -> BinaryIO:
    with Path(os.devnull).open("ab", buffering=0) as file:
        return file


def _shorten(file: BinaryIO, size: int) -> None:
    """Cut a file off at a size. One that is shorter already stays as it is: it would grow by NUL bytes."""
    if os.fstat(file.fileno()).st_size > size:
        os.ftruncate(file.fileno(), size)


def _compress(path: Path) -> None:
    """Replace a file by its compressed copy. A copy that a crash leaves unfinished has no number, and is ignored."""
    made = path.with_name(f"{path.name}.gz.tmp")
    with path.open("rb") as plain, gzip.open(made, "wb", 6) as compressed:
        shutil.copyfileobj(plain, compressed, 1 << 20)
    with made.open("rb") as file:
        os.fsync(file.fileno())
    made.replace(path.with_name(f"{path.name}.gz"))
    path.unlink()


def _first_record_time(path: Path) -> float:
    """Return the time of a file's first record. Not every file system stores when a file was created."""
    with path.open("rb") as file:
        first = file.readline(_CHUNK_BYTES)
    try:
        return datetime.fromisoformat(msgspec.json.decode(first, type=_FirstRecord).timestamp).timestamp()
    except ValueError:
        return path.stat().st_mtime


def _whole_lines(path: Path) -> int:
    """Return the number of bytes up to the end of the last whole line."""
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        while end:
            start = max(0, end - _CHUNK_BYTES)
            file.seek(start)
            found = file.read(end - start).rfind(b"\n")
            if found >= 0:
                return start + found + 1
            end = start
    return 0
