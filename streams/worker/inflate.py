"""Inflates Kafka's compressed batches, up to a bound."""

from __future__ import annotations

import struct
import threading
import zlib
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, Final

import cramjam

MAX_INFLATED: Final = 32 << 20
"""The most bytes of a batch after it was inflated. Batches of probes have one record, of 8 MiB at most."""
_GZIP: Final = 31
_SNAPPY_BLOCKS: Final = b"\x82SNAPPY\0"
_SNAPPY_HEADER_BYTES: Final = 16


class InflateError(ValueError):
    """A batch inflates to more than :data:`MAX_INFLATED`, or is damaged."""


class _LastSize(threading.local):
    bytes = 0


_last: Final = _LastSize()
_lock: Final = threading.Lock()
_buffer: Final = bytearray(MAX_INFLATED)
"""Memory that is not written to takes no room."""


def last_size() -> int:
    """Return the bytes that this thread's last batch has inflated to."""
    return _last.bytes


def _bounded(inflate: Callable[[bytes], bytes]) -> Callable[[Any], bytes]:
    def run(payload: Any) -> bytes:
        try:
            found = inflate(bytes(payload))
        except (cramjam.DecompressionError, struct.error, zlib.error) as error:
            raise _too_large(f": {error}") from error
        _last.bytes = len(found)
        return found

    return run


def _too_large(why: str = "") -> InflateError:
    return InflateError(f"it inflates to more than {MAX_INFLATED:,} bytes, or is damaged{why}")


def _into_buffer(decompress_into: Callable[[bytes, bytearray], int]) -> Callable[[bytes], bytes]:
    def run(payload: bytes) -> bytes:
        with _lock:
            size = decompress_into(payload, _buffer)
            return bytes(memoryview(_buffer)[:size])

    return run


def _gzip(payload: bytes) -> bytes:
    found: list[bytes] = []
    left = MAX_INFLATED
    while payload:
        member = zlib.decompressobj(_GZIP)
        # One byte more than is left, because 0 means no bound.
        found.append(member.decompress(payload, left + 1))
        left -= len(found[-1])
        if left < 0:
            raise _too_large()
        if not member.eof:
            raise _too_large(": it is not complete")
        payload = member.unused_data
    return b"".join(found)


def _snappy(payload: bytes) -> bytes:
    blocks = [payload]
    if payload.startswith(_SNAPPY_BLOCKS):
        blocks = list(_snappy_blocks(payload))
    if sum(cramjam.snappy.decompress_raw_len(block) for block in blocks) > MAX_INFLATED:
        raise _too_large()
    return b"".join(bytes(cramjam.snappy.decompress_raw(block)) for block in blocks)


def _snappy_blocks(payload: bytes) -> Iterator[bytes]:
    """Yield the blocks of the form in which Java's clients write snappy."""
    place = _SNAPPY_HEADER_BYTES
    while place < len(payload):
        (length,) = struct.unpack_from("!I", payload, place)
        place += 4
        yield payload[place : place + length]
        place += length


INFLATE: Final[Mapping[str, Callable[[Any], bytes]]] = MappingProxyType(
    {
        "gzip": _bounded(_gzip),
        "snappy": _bounded(_snappy),
        "lz4": _bounded(_into_buffer(cramjam.lz4.decompress_into)),
        "zstd": _bounded(_into_buffer(cramjam.zstd.decompress_into)),
    }
)
"""By the name of the codec. Each takes a batch, and raises :class:`InflateError`."""
