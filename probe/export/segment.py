"""The records of a spool's segment: bytes to records and back, and what is taken out of them for room. Pure.

A record is its length, the rows that were taken out of it, a CRC-32, and the batch (``enrich.wire.batch``).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

import msgspec
import numpy as np

from enrich.wire.batch import Batch, BatchError, Header, Verdict, decode_batch, encode_batch

HEAD: Final = struct.Struct("<III")
"""Length of the batch, rows lost, checksum."""


class SpooledBatch(NamedTuple):
    """One batch, or what is left of it."""

    value: bytes
    """The batch; empty where one or more were dropped."""
    lost: int = 0
    """Rows that were taken out."""

    @property
    def bytes(self) -> int:
        """What it takes on disk."""
        return HEAD.size + len(self.value)


def pack(record: SpooledBatch) -> bytes:
    """The record as it stands in the file."""
    value, lost = record
    return HEAD.pack(len(value), lost, _checksum(value, lost)) + value


def whole_batches(data: bytes) -> Iterator[SpooledBatch]:
    """The whole records of a segment, up to the first that is not."""
    offset = 0
    while offset + HEAD.size <= len(data):
        length, lost, checksum = HEAD.unpack_from(data, offset)
        value = data[offset + HEAD.size : offset + HEAD.size + length]
        if len(value) < length or _checksum(value, lost) != checksum:
            return
        yield SpooledBatch(value, lost)
        offset += HEAD.size + length


def _checksum(value: bytes, lost: int) -> int:
    """Never 0 for nothing: zeros are what a file system may leave at the end of a file after a power cut."""
    return zlib.crc32(value, (lost + 1) & 0xFFFFFFFF)


def header_of(value: bytes) -> Header | None:
    """The batch's header, None where there is no batch."""
    batch = _batch_of(value)
    return batch.header if batch else None


def without_allows(record: SpooledBatch) -> SpooledBatch:
    """The batch with its denied and audited rows only, which says which numbers it kept."""
    batch = _batch_of(record.value)
    if batch is None:
        return record
    keep = (batch.verdicts["verdict"] & 0x7F) != Verdict.ALLOW
    if bool(keep.all()):
        return record
    numbers = batch.numbers()[keep].astype(np.int64)
    edges = np.flatnonzero(np.diff(numbers) != 1) + 1
    runs = [(int(run[0]), len(run)) for run in np.split(numbers, edges) if len(run)]
    verdicts = batch.verdicts[keep]
    was = batch.header
    header = msgspec.structs.replace(
        was,
        first=runs[0][0] if runs else was.first,
        verdicts=len(verdicts),
        kept=runs,
        endpoints={str(n): was.endpoints[str(n)] for n in np.unique(verdicts["endpoint"]) if str(n) in was.endpoints},
        rules={str(n): was.rules[str(n)] for n in np.unique(verdicts["rule"]) if str(n) in was.rules},
    )
    return SpooledBatch(encode_batch(header, verdicts), record.lost + len(batch.verdicts) - len(verdicts))


def without_verdicts(records: Sequence[SpooledBatch]) -> list[SpooledBatch]:
    """One record that counts for all of them: what is left of dropped batches must not fill a disk either."""
    headers = (header_of(record.value) for record in records)
    lost = sum(record.lost for record in records) + sum(header.verdicts for header in headers if header)
    return [SpooledBatch(b"", lost)] if records else []


def _batch_of(value: bytes) -> Batch | None:
    try:
        return decode_batch(value)
    except BatchError:
        return None
