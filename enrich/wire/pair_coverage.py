"""Records of coverage on ``<prefix>.pairs``: which inputs a worker has counted, so that silence is not taken for peace.

THEORY OF OPERATION

An hour without counts may be one without connections, or one in which no worker counted. So each write of a worker also
has a record that says, for each partition of the raw topic, from where to where it counts. An example of a worker that
counts partition 3 of 12 from offset 1200 on, has come to 1450 by now, and had partition 7 for a while::

    key    c1/9e0c.../coverage/0
    value  {"v":1,"cluster":"c1","segment":"9e0c...","partitions":12,
            "spans":[[3,1200,1450,1790000000,1790000320],[7,880,901,1790000000,1790000111]],"missed":0}

Times are those of the worker's clock. Everything that Kafka had of partition 3 at 1790000320 is counted. Spans of
several workers are put together by offsets: where one begins at the offset at which another ended, nothing was left out
in between, however long nobody counted. What is left out is said to be not counted from the end of the one to the begin
of the other. Nobody has to write that he did *not* count.

``missed`` verdicts were read and are in no pair, because they came over a day late; ``missed_since`` and
``missed_until`` are the first and last second of them.
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from enrich.wire.bounds import Cluster, Count
from enrich.wire.pair import SegmentId
from enrich.wire.pair_records import PairRecordError

VERSION: Final = 1
ALL_CLUSTERS: Final = "*"
"""The cluster of a worker that counts every cluster's batches."""
MAX_SPANS: Final = 20_000
_Partition = Annotated[int, Meta(ge=0, le=9_999)]
_Partitions = Annotated[int, Meta(ge=0, le=10_000)]
_Second = Annotated[int, Meta(ge=0, lt=1 << 33)]


class CountedSpan(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """The inputs of one partition that a worker has counted without a break."""

    partition: _Partition
    since_offset: Count
    until_offset: Count
    """The first offset that is not counted."""
    since_s: _Second
    """When it began: inputs that reached Kafka before may be missing, if nobody else has counted them."""
    until_s: _Second
    """What had reached Kafka until then is counted, from ``since_offset`` on."""


class Coverage(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What one worker has counted, of a day at most."""

    v: int = VERSION
    cluster: Cluster
    """:data:`ALL_CLUSTERS`, or the one whose batches are counted."""
    segment: SegmentId
    partitions: _Partitions
    """How many partitions the raw topic has."""
    spans: Annotated[tuple[CountedSpan, ...], Meta(max_length=MAX_SPANS)]
    missed: Count = 0
    missed_since: _Second = 0
    missed_until: _Second = 0


encode_coverage: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder(Coverage).decode


def decode_coverage(value: bytes) -> Coverage:
    """Decode a record of coverage. Raises :class:`~enrich.wire.pair_records.PairRecordError`."""
    try:
        found = _decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise PairRecordError(str(error)) from error
    if found.v != VERSION:
        raise PairRecordError(f"version {found.v}, but this reader knows only {VERSION}")
    for span in found.spans:
        if span.since_offset > span.until_offset or span.since_s > span.until_s:
            raise PairRecordError("a span ends before it begins")
    if found.missed_since > found.missed_until:
        raise PairRecordError("what was missed ends before it begins")
    return found
