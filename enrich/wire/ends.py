"""Reports of connections in the header of a batch: what a logged, allowed connection carried, and how it ended.

A report is ``struct connection_end`` of ``bpf/layout.h``; :func:`end_dtype` makes its numpy twin. It begins with the
verdict as it was written, so a record of it has the verdict's names. The header has them as one text in base64, and
readers that do not know the key ignore it: the verdicts of a batch and their numbers are the same with reports and
without.

An example: verdict 5001 of ring 9f3c allowed a connection. Ten minutes later a header has a report with this ring and
number, part 0, how "closed", 1,234 bytes in 6 packets out of the pod and 40,321 bytes in 9 packets into it. A report
may be repeated after a crash; ``(ring, number, part)`` is the same then.

Reports are numbered in their own ring, so what is lost on the way shows: ``ends_first`` is the number of the header's
first report. What was removed from the batch is counted in ``ends_removed``, and comes before its reports. What the
kernel has lost never had a number, and is in ``ends_lost``. A report that this version does not understand is left out
and named (:class:`RefusedEnds`); the other reports and the verdicts of the batch go on.
"""

from __future__ import annotations

import base64
import enum
from typing import Any, Final, NamedTuple

import numpy as np

from enrich.wire.bounds import are_in_time

END_BYTES: Final = 160
MAX_ENDS: Final = 2000
"""The most reports in a batch."""
MAX_TEXT: Final = -(-MAX_ENDS * END_BYTES // 3) * 4
"""The most characters of them in base64."""
NO_NUMBER: Final = (1 << 64) - 1
"""The number of a verdict whose number is not known."""

Ends = np.ndarray[Any, np.dtype[np.void]]


class How(enum.IntEnum):
    """How a connection ended. A record has the name in lower case."""

    OPEN = 1
    """The connection lives on: an hourly report of what it has carried so far."""
    CLOSED = 2
    RESET = 3
    TIMEOUT = 4
    REVOKED = 5
    POD_GONE = 6
    EVICTED = 7
    MOVED = 8
    """It lives on in another generation of the probe's maps, and is not counted there."""


class RefusedEnds(NamedTuple):
    """Reports of a batch that are left out."""

    reason: str
    """unknown_end, unknown_verdict, bad_time, or unreadable."""
    reports: int
    text: str
    """What is wrong with the first of them, and which one it is."""


def end_dtype(verdict: np.dtype[Any]) -> np.dtype[Any]:
    """Return ``struct connection_end``, whose first field is a verdict of this layout."""
    return np.dtype(
        [
            ("verdict", verdict),
            ("ring", "<u8"),
            ("number", "<u8"),
            ("since_ns", "<u8"),
            ("until_ns", "<u8"),
            ("bytes", "<u8", (2,)),
            ("packets", "<u8", (2,)),
            ("part", "<u4"),
            ("how", "u1"),
            ("padding", "u1", (3,)),
        ]
    )


def encode_ends(ends: Ends) -> str:
    """Return reports as text for a header."""
    return base64.b64encode(ends.tobytes()).decode()


def count_ends(text: str) -> int:
    """Return how many reports a text that :func:`encode_ends` has made holds; of another text, by its length."""
    return len(text) * 3 // 4 // END_BYTES


def decode_ends(text: str, verdict: np.dtype[Any], clock: int) -> tuple[Ends, list[RefusedEnds]]:
    """Return the valid reports in a header with this clock, and those that are left out."""
    layout = end_dtype(verdict)
    try:
        raw = base64.b64decode(text, validate=True)
    except ValueError as error:
        return np.empty(0, layout), [_unreadable(len(text) * 3 // 4, f"ends is not base64: {error}")]
    if len(raw) % END_BYTES or len(raw) > MAX_ENDS * END_BYTES:
        why = f"ends has {len(raw)} bytes, which are not reports of {END_BYTES} bytes, {MAX_ENDS} at most"
        return np.empty(0, layout), [_unreadable(len(raw), why)]
    ends: Ends = np.frombuffer(raw, layout)
    verdicts = ends["verdict"]
    times = np.array([verdicts["time_ns"], ends["since_ns"], ends["until_ns"]])
    left = np.ones(len(ends), np.bool_)
    refused = []
    for reason, is_bad, named in (
        ("unknown_end", ~np.isin(ends["how"], list(How)), ends["how"]),
        ("unknown_verdict", ((verdicts["verdict"] & 0x7F) != 1) | (verdicts["flags"] & 1 != 0), verdicts["verdict"]),
        ("bad_time", ~are_in_time(times, clock).all(axis=0), times.max(axis=0, initial=0)),
    ):
        found = np.flatnonzero(is_bad & left)
        left &= ~is_bad
        if len(found):
            first = found[0]
            text = f"{named[first]} in the report of verdict {ends['ring'][first]:016x}-{ends['number'][first]}"
            refused.append(RefusedEnds(reason, len(found), text))
    return (ends[left] if refused else ends), refused


def _unreadable(size: int, why: str) -> RefusedEnds:
    return RefusedEnds("unreadable", min(max(1, size // END_BYTES), MAX_ENDS), why)
