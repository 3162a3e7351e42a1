"""The Kafka keys of ``<prefix>.pairs``, which say what a record is: names, counts of an hour, or coverage.

::

    c1/5f0c/names/2       the names of chunk 2 of segment 5f0c of cluster c1
    c1/5f0c/494971/2      the counts of this chunk in hour 494971 since the epoch
    c1/5f0c/coverage/0    which inputs the worker has counted (enrich.wire.pair_coverage)

A cluster's id may have slashes of its own (an ARN has them), and may even contain ``/names/``. The other parts have
none, so a key is read from its end.
"""

from __future__ import annotations

import functools
import re
from typing import Final, Literal, NamedTuple

from enrich.wire.pair_records import MAX_CHUNKS, MAX_HOUR

Kind = Literal["names", "counts", "coverage"]
_KEY: Final = re.compile(
    r"([!-~]{1,253})/([!-.0-~]{1,64})/(names|coverage|0|[1-9][0-9]{0,6})/(0|[1-9][0-9]{0,3})", re.A
)


class RecordPlace(NamedTuple):
    """What the key of a record says."""

    cluster: str
    segment: str
    kind: Kind
    chunk: int
    hour: int = 0


def names_key(cluster: str, segment: str, chunk: int) -> bytes:
    """Return the Kafka key of a record of names."""
    return f"{cluster}/{segment}/names/{chunk}".encode()


def counts_key(cluster: str, segment: str, hour: int, chunk: int) -> bytes:
    """Return the Kafka key of a record of counts."""
    return f"{cluster}/{segment}/{hour}/{chunk}".encode()


def coverage_key(cluster: str, segment: str) -> bytes:
    """Return the Kafka key of a record of coverage."""
    return f"{cluster}/{segment}/coverage/0".encode()


@functools.lru_cache(4_096)
def place_of(key: bytes) -> RecordPlace | None:
    """Return what a key says; None for one that no worker writes."""
    found = _KEY.fullmatch(key.decode("latin-1"))
    if found is None:
        return None
    cluster, segment, kind, chunk = found[1], found[2], found[3], int(found[4])
    if chunk >= MAX_CHUNKS:
        return None
    if kind == "names":
        return RecordPlace(cluster, segment, "names", chunk)
    if kind == "coverage":
        return RecordPlace(cluster, segment, "coverage", chunk) if not chunk else None
    return RecordPlace(cluster, segment, "counts", chunk, int(kind)) if int(kind) < MAX_HOUR else None
