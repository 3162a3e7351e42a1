"""Batches into a spool, for tests that make a batch's bytes rather than its parts."""

from __future__ import annotations

from enrich.wire.batch import decode_batch
from probe.export.spool import Spool


def append(spool: Spool, value: bytes) -> None:
    """Append an encoded batch."""
    spool.append(value, decode_batch(value).header)
