"""Reads the spool that the last process left on disk: segments, the newest header, the last acknowledged batch.

It changes the folder where a kill has left something half done: it cuts off a torn tail, and deletes rewritten segments
that were never renamed and segments that Kafka has acknowledged.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import structlog

from enrich.wire.batch import Header
from probe.export.acknowledged import REFUSED, SPOOL_FULL, Acknowledged
from probe.export.segment import Segment, SpoolPosition, header_of, whole_batches

log = structlog.get_logger("kubeweir.probe")


class Recovered(NamedTuple):
    """What :func:`recover` found on disk."""

    segments: dict[int, Segment]
    last_header: Header | None
    """The header of the newest batch that still has one."""
    acknowledged: Acknowledged


def recover(folder: Path, noted: Acknowledged | None) -> Recovered:
    """Read the segments in ``folder``. ``noted`` is the content of the file ``acked``, None if it is lost."""
    for leftover in folder.glob("*.new"):
        leftover.unlink()
    position = noted.position if noted else SpoolPosition(0, 0)
    segments: dict[int, Segment] = {}
    last_header: Header | None = None
    for path in sorted(folder.glob("*.seg")):
        if int(path.stem) < position.segment:
            path.unlink()  # its losses are counted in the file `acked` already
        else:
            segments[int(path.stem)], header = _recover_segment(path)
            last_header = header or last_header
    batches = segments[position.segment].batches if position.segment in segments else 0
    if batches:
        position = SpoolPosition(position.segment, min(position.ordinal, batches))
    else:
        position = SpoolPosition(min(segments, default=position.segment + 1), 0)
    acknowledged = noted._replace(position=position) if noted else _as_reported(position, segments, last_header)
    return Recovered(segments, last_header, acknowledged)


def _recover_segment(path: Path) -> tuple[Segment, Header | None]:
    data = path.read_bytes()
    stored = list(whole_batches(data))
    whole = sum(batch.stored_bytes for batch in stored)
    if whole < len(data):
        log.warning("the spool had a torn tail, which is cut off: its verdicts are read from the ring again",
                    segment=path.name, bytes=len(data) - whole)  # fmt: skip
        os.truncate(path, whole)
    segment = Segment(path, len(stored), whole, sum(batch.lost for batch in stored))
    return segment, next((header for batch in reversed(stored) if (header := header_of(batch.value))), None)


def _as_reported(position: SpoolPosition, segments: dict[int, Segment], last_header: Header | None) -> Acknowledged:
    """Stand in for a lost file ``acked``: everything is sent again, and losses already reported stay counted."""
    reported = {reason: total for reason, (_, total) in last_header.lost.items()} if last_header else {}
    here = sum(segment.lost for segment in segments.values())
    return Acknowledged(position, max(0, reported.get(SPOOL_FULL, 0) - here), reported.get(REFUSED, 0))
