"""The two forms of records on ``<prefix>.pairs``: the names of combinations, and their counts in one hour.

THEORY OF OPERATION

A segment numbers its combinations from 0 on, in the order in which it meets them. Numbers 0 to 1023 are chunk 0, the
next ones chunk 1, and so on. Of chunk 2 of segment ``5f0c``, the topic has one record of names::

    key    c1/5f0c/names/2
    value  {"v":1,"cluster":"c1","segment":"5f0c","chunk":2,"ends":[{"profile":"8f2d..."},{"block":"198.51.100.7/32"}],
            "rules":[[],[{"kind":"NetworkPolicy","namespace":"shop","name":"web","rule":0}]],
            "pairs":[[0,1,"egress",6,443,"allow","policy",1,"",["9f3c-5003"]]]}

and one record of counts for each hour in which one of these combinations had a verdict::

    key    c1/5f0c/494971/2
    value  {"v":1,"cluster":"c1","segment":"5f0c","chunk":2,"hour":494971,"pairs":3}
           <3 places in the chunk, 3 counts of verdicts, of packets, 3 first seconds, 3 last seconds>

The counts are columns of little-endian numbers, and each column is written byte by byte: all lowest bytes first, all
highest last. Most of these are alike, so the compression of Kafka leaves about five bytes of a combination and hour.

A reader accepts version 1 only, and refuses a record with a value that no worker writes: whoever may write to the topic
may write anything.
"""

from __future__ import annotations

import functools
import ipaddress
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, Literal

import msgspec
import numpy as np
from msgspec import Meta

from enrich.wire.bounds import Cluster, Count, LossReason, Octet, Port
from enrich.wire.pair import (
    HOUR_NS,
    MAX_EXAMPLES,
    VERSION,
    Pair,
    PairEnd,
    PairKey,
    RecordId,
    Rules,
    SegmentId,
    ServicePath,
)

CHUNK: Final = 1024
"""The most combinations of a chunk."""
MAX_CHUNKS: Final = 4096
"""The most chunks of a segment that a reader takes: far more than a worker's bound on its combinations."""
MAX_HOUR: Final = 1 << 20
"""The hours since the epoch end here for a reader, in the year 2089."""
MAX_SECOND: Final = (1 << 16) - 1
"""The last time of an hour's counts may be later than the hour, because a verdict may count packets for a while."""
SECOND_NS: Final = 1_000_000_000
_COLUMNS: Final = (("place", "<u2"), ("verdicts", "<u8"), ("packets", "<u8"), ("first", "<u2"), ("last", "<u2"))
_BYTES: Final = sum(np.dtype(kind).itemsize for _, kind in _COLUMNS)
_Place = Annotated[int, Meta(ge=0, lt=CHUNK)]
_End = Annotated[int, Meta(ge=0, lt=2 * CHUNK)]
_Chunk = Annotated[int, Meta(ge=0, lt=MAX_CHUNKS)]

Columns = Mapping[str, np.ndarray[Any, Any]]
"""Arrays of one length by the names in the table above."""


class PairRecordError(ValueError):
    """The bytes are not a record of pairs that this reader accepts; the message says why."""


class _NamedPair(msgspec.Struct, array_like=True, frozen=True):
    """One combination; ends and rules by their index in the record."""

    subject: _End
    peer: _End
    direction: Literal["ingress", "egress"]
    protocol: Octet
    port: Port
    verdict: Literal["allow", "deny", "audit", "unknown"]
    reason: LossReason
    rules: _Place
    service: ServicePath
    examples: Annotated[tuple[RecordId, ...], Meta(max_length=MAX_EXAMPLES)]


class _NamesRecord(msgspec.Struct, frozen=True, kw_only=True):
    v: int = VERSION
    cluster: Cluster
    segment: SegmentId
    chunk: _Chunk
    ends: Annotated[list[PairEnd], Meta(max_length=2 * CHUNK)]
    rules: Annotated[list[Rules], Meta(max_length=CHUNK)]
    pairs: Annotated[list[_NamedPair], Meta(max_length=CHUNK)]


class CountsHeader(msgspec.Struct, frozen=True, kw_only=True):
    """What a record of counts says of itself."""

    v: int = VERSION
    cluster: Cluster
    segment: SegmentId
    chunk: _Chunk
    hour: Annotated[int, Meta(ge=0, lt=MAX_HOUR)]
    pairs: Annotated[int, Meta(ge=0, le=CHUNK)]


class Names(msgspec.Struct, frozen=True, kw_only=True):
    """The combinations of a chunk by their place in it, each with the ids of some records."""

    cluster: Cluster
    segment: SegmentId
    chunk: Count
    pairs: Sequence[tuple[PairKey, tuple[str, ...]]]


class Counts(msgspec.Struct, frozen=True, kw_only=True):
    """The counts of a chunk in one hour."""

    header: CountsHeader
    columns: Any
    """:data:`Columns`: places in the chunk, ascending, and what was counted of each."""


_encode = msgspec.json.Encoder().encode
_decode_names = msgspec.json.Decoder(_NamesRecord).decode
_decode_header = msgspec.json.Decoder(CountsHeader).decode
_decode_version = msgspec.json.Decoder(dict[str, Any]).decode


def encode_names(names: Names) -> bytes:
    """Encode the names of a chunk as a Kafka value."""
    ends: dict[PairEnd, int] = {}
    rules: dict[Rules, int] = {}
    pairs = [
        _NamedPair(
            ends.setdefault(key.subject, len(ends)),
            ends.setdefault(key.peer, len(ends)),
            key.direction, key.protocol, key.port, key.verdict, key.reason,
            rules.setdefault(key.policies, len(rules)),
            key.service,
            examples,
        )
        for key, examples in names.pairs
    ]  # fmt: skip
    return _encode(
        _NamesRecord(
            cluster=names.cluster,
            segment=names.segment,
            chunk=names.chunk,
            ends=list(ends),
            rules=list(rules),
            pairs=pairs,
        )
    )


def decode_names(value: bytes) -> Names:
    """Decode a record of names. Raises :class:`PairRecordError`."""
    try:
        record = _decode_names(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _refused(value, error) from error
    _check_version(record.v)
    try:
        for end in record.ends:
            _check_block(end.block)
        pairs = tuple((_key(record, pair), pair.examples) for pair in record.pairs)
    except IndexError as error:
        raise PairRecordError("a pair refers to an end or a rule that the record does not have") from error
    except ValueError as error:
        raise PairRecordError(str(error)) from error
    return Names(cluster=record.cluster, segment=record.segment, chunk=record.chunk, pairs=pairs)


@functools.lru_cache(65_536)
def _check_block(block: str) -> None:
    """Raise ValueError for a block that has the characters of a network and is not one: ``1.2.3.4/99``."""
    if block:
        ipaddress.ip_network(block)


def _key(record: _NamesRecord, pair: _NamedPair) -> PairKey:
    return PairKey(
        subject=record.ends[pair.subject],
        peer=record.ends[pair.peer],
        direction=pair.direction,
        protocol=pair.protocol,
        port=pair.port,
        verdict=pair.verdict,
        reason=pair.reason,
        policies=record.rules[pair.rules],
        service=pair.service,
    )


def encode_counts(header: CountsHeader, columns: Columns) -> bytes:
    """Encode the counts of a chunk as a Kafka value. ``columns`` are as long as the header says."""
    planes = [
        np.ascontiguousarray(columns[name], kind).view("u1").reshape(-1, np.dtype(kind).itemsize).T.tobytes()
        for name, kind in _COLUMNS
    ]
    return b"".join((_encode(header), b"\n", *planes))


def decode_counts(value: bytes) -> Counts:
    """Decode a record of counts. Raises :class:`PairRecordError`."""
    text, newline, body = value.partition(b"\n")
    if not newline:
        raise PairRecordError("no newline ends the header")
    try:
        header = _decode_header(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _refused(text, error) from error
    _check_version(header.v)
    if len(body) != header.pairs * _BYTES:
        raise PairRecordError(f"{len(body)} bytes of counts, {header.pairs * _BYTES} announced")
    columns, begin = {}, 0
    for name, kind in _COLUMNS:
        width = np.dtype(kind).itemsize
        planes = np.frombuffer(body, "u1", header.pairs * width, begin).reshape(width, header.pairs)
        columns[name] = np.ascontiguousarray(planes.T).view(kind).reshape(header.pairs)
        begin += header.pairs * width
    _check_columns(columns)
    return Counts(header=header, columns=columns)


def _check_columns(columns: Columns) -> None:
    places = columns["place"].astype(np.int64)
    if len(places) and (int(places.max()) >= CHUNK or bool((np.diff(places) <= 0).any())):
        raise PairRecordError("the places do not ascend, or are beyond a chunk's end")
    for name in ("verdicts", "packets"):
        if len(places) and int(columns[name].max()) >= 1 << 63:
            raise PairRecordError(f"a count of {name} is out of range")
    if len(places) and int(columns["first"].max()) >= HOUR_NS // SECOND_NS:
        raise PairRecordError("a first time is not in its hour")
    if bool((columns["first"] > columns["last"]).any()):
        raise PairRecordError("a first time is later than the last one")


def _refused(text: bytes, error: Exception) -> PairRecordError:
    """Name the version as the reason if it is another one: a record of that version may look different."""
    try:
        version = _decode_version(text).get("v", VERSION)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        version = VERSION
    if version != VERSION:
        return PairRecordError(f"version {version!r}, but this reader knows only {VERSION}")
    return PairRecordError(str(error))


def _check_version(version: int) -> None:
    if version != VERSION:
        raise PairRecordError(f"version {version}, but this reader knows only {VERSION}")


def pairs_of(names: Names, counts: Counts) -> list[Pair]:
    """Put the names of a chunk and its counts in one hour together. Counts of a place without a name are left out."""
    header, columns = counts.header, counts.columns
    begin = header.hour * HOUR_NS
    counted = zip(*(columns[name].tolist() for name, _ in _COLUMNS), strict=True)
    return [
        Pair(
            cluster=header.cluster,
            hour=header.hour,
            key=names.pairs[place][0],
            verdicts=verdicts,
            packets=packets,
            first_ns=begin + first * SECOND_NS,
            last_ns=begin + last * SECOND_NS,
            examples=names.pairs[place][1],
            segment=header.segment,
        )
        for place, verdicts, packets, first, last in counted
        if place < len(names.pairs)
    ]
