"""Reads, from the files of a broker that may be frozen, which transactions it has begun and not completed."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_BATCH_HEADER: Final = 61
_COMPLETE: Final = {0: "Empty", 4: "CompleteCommit", 5: "CompleteAbort", 6: "Dead"}
"""Kafka's states of transactions of which no marker is missing."""


def open_transactions(data: Path) -> dict[str, int]:
    """Return Kafka's state of each transaction that is not complete, by transactional id."""
    states: dict[str, int] = {}
    for file in sorted(data.glob("__transaction_state-*/*.log")):
        for key, value in _records(file.read_bytes()):
            name = key[4:].decode()
            if value:
                # A version, the producer's number and epoch, the timeout, and then the state.
                states[name] = value[2 + 8 + 2 + 4]
            else:
                states.pop(name, None)
    return {name: state for name, state in states.items() if state not in _COMPLETE}


def _records(log: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield key and value of each record of a segment (https://kafka.apache.org/documentation/#recordbatch)."""
    start = 0
    while start + _BATCH_HEADER <= len(log):
        (length,) = struct.unpack_from(">i", log, start + 8)
        end = start + 12 + length
        if length <= 0 or end > len(log):
            return
        (count,) = struct.unpack_from(">i", log, start + 57)
        at = start + _BATCH_HEADER
        for _ in range(count):
            size, at = _varint(log, at)
            following, at = at + size, at + 1  # the attributes of a record
            _, at = _varint(log, at)
            _, at = _varint(log, at)
            key, at = _bytes(log, at)
            value, at = _bytes(log, at)
            yield key, value
            at = following
        start = end


def _bytes(log: bytes, at: int) -> tuple[bytes, int]:
    length, at = _varint(log, at)
    return log[at : at + max(0, length)], at + max(0, length)


def _varint(log: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = log[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return (value >> 1) ^ -(value & 1), at
