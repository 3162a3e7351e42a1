"""Sorts more records than fit into memory, through files."""

from __future__ import annotations

import heapq
import tempfile
from collections.abc import Iterable, Iterator
from typing import IO, Final

_MAX_BYTES: Final = 64 << 20
"""The bytes of values that are sorted in memory at a time."""


def sort_values(values: Iterable[tuple[str, bytes]], max_bytes: int = _MAX_BYTES) -> Iterator[tuple[str, bytes]]:
    """Yield pairs of a key and a value by key; equal keys in their order. Nothing comes before all have been taken.

    Values are JSON. A line break in one stands between its tokens, and becomes a space."""
    runs: list[IO[bytes]] = []
    taken: list[tuple[str, bytes]] = []
    size = 0
    try:
        for key, value in values:
            taken.append((key, value.replace(b"\n", b" ")))
            size += len(value) + len(key)
            if size > max_bytes:
                runs.append(_write(taken))
                taken, size = [], 0
        taken.sort(key=lambda pair: pair[0])
        yield from heapq.merge(*(_read(run) for run in runs), taken, key=lambda pair: pair[0])
    finally:
        for run in runs:
            run.close()


def _write(taken: list[tuple[str, bytes]]) -> IO[bytes]:
    file = tempfile.TemporaryFile()  # noqa: SIM115 - its reader closes it
    for key, value in sorted(taken, key=lambda pair: pair[0]):
        file.write(b"%b\n%b\n" % (key.replace("\n", " ").encode(), value))
    file.seek(0)
    return file


def _read(file: IO[bytes]) -> Iterator[tuple[str, bytes]]:
    for key in file:
        yield key[:-1].decode(), next(file)[:-1]
