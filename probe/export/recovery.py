"""Reads the spool that the last process left on disk: segments, the newest header, the last acknowledged batch.

It changes the folder where a kill has left something half done: it cuts off a torn tail, and deletes rewritten segments
that were never renamed and segments that Kafka has acknowledged.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Final, NamedTuple

import structlog

from enrich.runtime.state_file import DamagedError, read_state, set_aside
from enrich.wire.batch import Header
from enrich.wire.numbering import REFUSED, SPOOL_FULL
from probe.export.acknowledged import Acknowledged
from probe.export.segment import (
    Segment,
    SpoolPosition,
    batches_behind_damage,
    header_of,
    is_joined,
    is_torn,
    rewrite,
    summaries,
    whole_batches,
)

log = structlog.get_logger("kubeweir.probe")

_ASIDE: Final = "segment.damaged"
"""One name for all, so that damage never fills the disk."""
_CONSEQUENCE: Final = "the verdicts in what is damaged are lost; readers see the gap in their numbers"


class Recovered(NamedTuple):
    """What :func:`recover` found on disk."""

    segments: dict[int, Segment]
    last_header: Header | None
    """The header of the newest batch that still has one."""
    acknowledged: Acknowledged


def recover(folder: Path, noted: Acknowledged | None) -> Recovered:
    """Read the segments in ``folder``. ``noted`` is the content of the file ``acked``, None if it is lost.

    What cannot be read is set aside, and what can be read of a damaged segment is kept. Raises OSError.
    """
    for leftover in folder.glob("*.new"):
        with contextlib.suppress(OSError):
            leftover.unlink()
    position = noted.position if noted else SpoolPosition(0, 0)
    segments: dict[int, Segment] = {}
    last_header: Header | None = None
    before: list[Header] | None = None
    for path in sorted(folder.glob("*.seg")):
        if not path.stem.isdecimal():
            continue  # not ours
        number = int(path.stem)
        if number < position.segment:
            path.unlink()  # its losses are counted in the file `acked` already
        elif found := _recover_segment(path):
            segment, header, is_damaged, summary = found
            last_header = header or last_header
            if is_joined(before, summary):
                path.unlink()
                continue
            segments[number], before = segment, summary
            if is_damaged and number == position.segment:
                position = SpoolPosition(number, 0)  # it is not known which of its batches is missing
    batches = segments[position.segment].batches if position.segment in segments else 0
    if batches:
        position = SpoolPosition(position.segment, min(position.ordinal, batches))
    else:
        position = SpoolPosition(min(segments, default=position.segment + 1), 0)
    acknowledged = noted._replace(position=position) if noted else _as_reported(position, segments, last_header)
    return Recovered(segments, last_header, acknowledged)


def _recover_segment(path: Path) -> tuple[Segment, Header | None, bool, list[Header] | None] | None:
    """Read a segment, and cut off or remove what is damaged; None if there is nothing to read.

    Return also its newest header, whether batches in its middle were lost, and its summaries if it has only these.
    Raises OSError."""
    try:
        data = read_state(path)
    except DamagedError as error:
        set_aside(path, "spool", str(error), _CONSEQUENCE, to=path.with_name(_ASIDE))
        return None
    stored = list(whole_batches(data))
    segment = Segment(path, len(stored), sum(batch.stored_bytes for batch in stored), sum(one.lost for one in stored))
    is_damaged = False
    if segment.bytes < len(data):
        every = list(batches_behind_damage(data))
        if len(every) > len(stored) or not is_torn(data[segment.bytes :]):
            set_aside(path, "spool", f"{len(data) - segment.bytes} bytes from {segment.bytes} on are damaged",
                      _CONSEQUENCE, to=path.with_name(_ASIDE))  # fmt: skip
            stored, is_damaged = every, True
            rewrite(segment, stored)
        else:
            log.warning("the spool had a torn tail, which is cut off: its verdicts are read from the ring again",
                        segment=path.name, bytes=len(data) - segment.bytes)  # fmt: skip
            os.truncate(path, segment.bytes)
    newest = next((header for batch in reversed(stored) if (header := header_of(batch.value))), None)
    return segment, newest, is_damaged, summaries(stored)


def _as_reported(position: SpoolPosition, segments: dict[int, Segment], last_header: Header | None) -> Acknowledged:
    """Stand in for a lost file ``acked``: everything is sent again, and losses already reported stay counted."""
    reported = {reason: total for reason, (_, total) in last_header.lost.items()} if last_header else {}
    here = sum(segment.lost for segment in segments.values())
    return Acknowledged(position, max(0, reported.get(SPOOL_FULL, 0) - here), reported.get(REFUSED, 0))
