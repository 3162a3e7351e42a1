"""The content of the spool's segment files: batches to bytes and back, and what a full spool removes.

A segment is a file of stored batches, one behind the other. Each is a head of 12 bytes (:data:`HEAD`) and the batch as
``enrich.wire.batch`` encodes it:

    length of the batch | verdicts removed from it | CRC-32 of both | batch
         4 bytes        |         4 bytes          |    4 bytes     | length bytes

The number of removed verdicts stands in the same checksummed entry as the verdicts that remain, so that after a kill a
loss and its count are either both on disk or both not. Batches without verdicts leave a summary, which tells
readers the numbers that were removed (:mod:`probe.export.summary`).
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
import numpy as np

from enrich.runtime.private import open_private
from enrich.wire.batch import VERDICT, Batch, BatchError, Header, Verdict, decode_batch, encode_batch
from enrich.wire.numbering import SPOOL_FULL
from probe.export.summary import covers, encode_summary, joined, summary_of, without_ends

HEAD: Final = struct.Struct("<III")
"""Length of the batch, verdicts removed from it, checksum."""
_BATCH_BEGINS: Final = b'{"'
_MAX_BATCH: Final = 64 << 20
"""No batch is so large."""


class SpoolPosition(NamedTuple):
    """The place of a stored batch in the spool: the number of its segment, and how many batches precede it there."""

    segment: int
    ordinal: int


class SpooledBatch(NamedTuple):
    """A stored batch, or what is left of one or more."""

    value: bytes
    """The batch; empty if all its verdicts were removed by an earlier version, or could not be decoded."""
    lost: int = 0
    """How many verdicts were removed."""

    @property
    def stored_bytes(self) -> int:
        """Return its size on disk."""
        return HEAD.size + len(self.value)


@dataclass(slots=True)
class Segment:
    """What the spool knows of one segment file without reading it."""

    path: Path
    batches: int = 0
    bytes: int = 0
    lost: int = 0
    """Verdicts removed from its batches."""
    thinned: int = 0
    """What a full spool has removed from it: 0 nothing, 1 the allowed verdicts, 2 all verdicts."""


def pack(batch: SpooledBatch) -> bytes:
    """Return the bytes that store a batch."""
    value, lost = batch
    return HEAD.pack(len(value), lost, _checksum(value, lost)) + value


def whole_batches(data: bytes) -> Iterator[SpooledBatch]:
    """Yield the stored batches of a segment up to the first that is torn or damaged."""
    offset = 0
    while offset + HEAD.size <= len(data):
        length, lost, checksum = HEAD.unpack_from(data, offset)
        value = data[offset + HEAD.size : offset + HEAD.size + length]
        if len(value) < length or _checksum(value, lost) != checksum:
            return
        yield SpooledBatch(value, lost)
        offset += HEAD.size + length


def _checksum(value: bytes, lost: int) -> int:
    """Return the checksum of an entry.

    It starts from ``lost + 1``, so that an entry of zeros is invalid: after a power cut a file system may leave zeros
    at the end of a file.
    """
    return zlib.crc32(value, (lost + 1) & 0xFFFFFFFF)


def batches_behind_damage(data: bytes) -> Iterator[SpooledBatch]:
    """Yield all stored batches that are whole, also those behind damaged bytes.

    A damaged entry does not say where the next one begins. A batch begins with a JSON object, so each ``{"`` may be
    one; the length and the checksum in front of it say whether it is.
    """
    offset = 0
    while True:
        for batch in whole_batches(data[offset:]):
            yield batch
            offset += batch.stored_bytes
        begin = data.find(_BATCH_BEGINS, offset + HEAD.size + 1)
        while begin >= 0 and not _is_entry(data, begin - HEAD.size):
            begin = data.find(_BATCH_BEGINS, begin + 1)
        if begin < 0:
            return
        offset = begin - HEAD.size


def is_torn(tail: bytes) -> bool:
    """Return whether the end of a segment may be the beginning of an entry that a killed process did not finish."""
    if len(tail) < HEAD.size:
        return True
    length: int = HEAD.unpack_from(tail, 0)[0]
    return len(tail) - HEAD.size < length <= _MAX_BATCH


def _is_entry(data: bytes, offset: int) -> bool:
    length, lost, checksum = HEAD.unpack_from(data, offset)
    end = offset + HEAD.size + length
    return end <= len(data) and bool(_checksum(data[offset + HEAD.size : end], lost) == checksum)


def rewrite(segment: Segment, stored: Sequence[SpooledBatch]) -> None:
    """Have a segment's file hold these batches instead. Raises OSError; then it holds what it did."""
    temporary = segment.path.with_suffix(".new")
    try:
        with open(temporary, "wb", opener=open_private) as file:
            file.write(b"".join(map(pack, stored)))
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(segment.path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    segment.batches = len(stored)
    segment.bytes = sum(batch.stored_bytes for batch in stored)
    segment.lost = sum(batch.lost for batch in stored)


def thin(segment: Segment, taken: int, level: int) -> bool:
    """Rewrite a segment without its allows (level 1) or its verdicts (2), except for its first ``taken`` batches.

    Return whether there was anything to remove. Raises OSError."""
    stored = list(whole_batches(segment.path.read_bytes()))
    free = stored[taken:]
    thinned = stored[:taken] + ([without_allows(batch) for batch in free] if level == 1 else without_verdicts(free))
    if thinned != stored:
        rewrite(segment, thinned)
    segment.thinned = level
    return thinned != stored


class UnsentBatch(NamedTuple):
    """A batch for the publisher. ``header`` is None where there is nothing to send: an earlier version removed all
    verdicts, or this version cannot decode the batch. Then the position only has to be acknowledged."""

    position: SpoolPosition
    value: bytes
    header: Header | None
    unreadable: int = 0
    """How many verdicts are lost, because the batch cannot be decoded; to be counted as refused."""


def header_of(value: bytes) -> Header | None:
    """Return the header of a stored batch, None if its verdicts were removed or this version cannot decode it."""
    batch = _batch_of(value)
    return batch.header if batch else None


def verdicts_in_unreadable(value: bytes) -> int:
    """Return how many verdicts are in a stored batch that cannot be decoded: every version wrote them in one size."""
    return len(value.partition(b"\n")[2]) // VERDICT.itemsize


def without_allows(stored: SpooledBatch) -> SpooledBatch:
    """Return the batch with its denied and audited verdicts only, without reports; the header's ``kept`` lists their
    numbers."""
    batch = _batch_of(stored.value)
    if batch is None:
        return stored
    keep = (batch.verdicts["verdict"] & 0x7F) != Verdict.ALLOW
    if bool(keep.all()):
        # Reports are about allowed connections, so they must not outlive denials either.
        if batch.ends is None:
            return stored
        return stored._replace(value=encode_batch(without_ends(batch.header, SPOOL_FULL), batch.verdicts))
    numbers = batch.numbers()[keep].astype(np.int64)
    edges = np.flatnonzero(np.diff(numbers) != 1) + 1
    runs = [(int(run[0]), len(run)) for run in np.split(numbers, edges) if len(run)]
    verdicts = batch.verdicts[keep]
    full = batch.header
    summary = summary_of(full, SPOOL_FULL)
    header = msgspec.structs.replace(
        summary,
        first=runs[0][0] if runs else summary.first,
        verdicts=len(verdicts),
        kept=runs,
        endpoints={str(n): full.endpoints[str(n)] for n in np.unique(verdicts["endpoint"]) if str(n) in full.endpoints},
        rules={str(n): full.rules[str(n)] for n in np.unique(verdicts["rule"]) if str(n) in full.rules},
    )
    return SpooledBatch(encode_batch(header, verdicts), stored.lost + len(batch.verdicts) - len(verdicts))


def without_verdicts(stored: Sequence[SpooledBatch]) -> list[SpooledBatch]:
    """Return a summary for each ring: entries of dropped batches must not fill the disk.

    Batches that cannot be decoded have none; what was removed from them is counted in the entry before."""
    found: list[tuple[Header | None, int]] = []
    for batch in stored:
        header = header_of(batch.value)
        lost = batch.lost + (header.verdicts if header else 0)
        summary = summary_of(header, SPOOL_FULL) if header else None
        last, counted = found[-1] if found else (None, 0)
        if not found or (last and summary and joined(last, summary) is None):
            found.append((summary, lost))
        else:
            found[-1] = joined(last, summary) if last and summary else last or summary, counted + lost
    return [SpooledBatch(encode_summary(header) if header else b"", lost) for header, lost in found]


def summaries(stored: Iterable[SpooledBatch]) -> list[Header] | None:
    """Return the headers of a segment's batches if none has a verdict or a report; None if it is another segment."""
    found = []
    for batch in stored:
        header = header_of(batch.value)
        if header is None or header.verdicts or header.ends:
            return None
        found.append(header)
    return found


def join(segment: Segment, later: Segment) -> None:
    """Have a segment hold the summaries of the next one as well. Raises OSError; then it holds what it did.

    The next one is to be deleted then; see :func:`is_joined`."""
    rewrite(segment, without_verdicts([*whole_batches(segment.path.read_bytes()),
                                       *whole_batches(later.path.read_bytes())]))  # fmt: skip


def is_joined(segment: list[Header] | None, later: list[Header] | None) -> bool:
    """Return whether a segment holds the summaries of the next one already, which a killed probe did not delete."""
    return bool(segment and later) and all(any(covers(one, other) for one in segment or ()) for other in later or ())


def _batch_of(value: bytes) -> Batch | None:
    try:
        return decode_batch(value)
    except BatchError:
        return None


class Counts(NamedTuple):
    """What a spool holds."""

    lost: Mapping[str, int]
    """Verdicts that will not reach Kafka, by reason."""
    bytes: int
    """The bytes of all segments on disk."""
    unacked: int
    """Batches that Kafka has not acknowledged."""

    @classmethod
    def of(cls, segments: Mapping[int, Segment], acknowledged: SpoolPosition, lost: Mapping[str, int]) -> Counts:
        """Return the counts of these segments.

        ``lost`` has the losses of segments that were deleted, and those that Kafka refused."""
        return cls(
            lost=lost,
            bytes=sum(segment.bytes for segment in segments.values()),
            unacked=sum(one.batches for number, one in segments.items() if number >= acknowledged.segment)
            - acknowledged.ordinal,
        )
