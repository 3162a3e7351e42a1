"""Reports of connections in the header of a batch: what a logged, allowed connection carried, and how it ended.

A report is ``struct connection_end`` of ``bpf/layout.h``; :func:`end_dtype` makes its numpy twin. It begins with the
verdict as it was written, so a record of it has the verdict's names. The header has them as one text in base64, and
readers that do not know the key ignore it: the verdicts of a batch and their numbers are the same with reports and
without.

An example: verdict 5001 of ring 9f3c allowed a connection. Ten minutes later a header has a report with this ring and
number, part 0, how "closed", 1,234 bytes in 6 packets out of the pod and 40,321 bytes in 9 packets into it. A report
may be repeated after a crash; ``(ring, number, part)`` is the same then.
"""

from __future__ import annotations

import base64
import enum
from typing import Any, Final

import numpy as np

from enrich.wire.bounds import are_times

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
    """Return how many reports a text that :func:`encode_ends` has made holds."""
    return len(base64.b64decode(text)) // END_BYTES


def decode_ends(text: str, verdict: np.dtype[Any], clock: int) -> Ends:
    """Return the reports in a header with this clock. Raises ValueError, with the reason, if they are not valid."""
    try:
        raw = base64.b64decode(text, validate=True)
    except ValueError as error:
        raise ValueError(f"ends is not base64: {error}") from error
    if len(raw) % END_BYTES or len(raw) > MAX_ENDS * END_BYTES:
        raise ValueError(f"ends has {len(raw)} bytes, which are not reports of {END_BYTES} bytes, {MAX_ENDS} at most")
    ends: Ends = np.frombuffer(raw, end_dtype(verdict))
    if not len(ends):
        return ends
    verdicts = ends["verdict"]
    if bool(np.any((verdicts["verdict"] & 0x7F) != 1)) or bool(np.any(verdicts["flags"] & 1)):
        raise ValueError("ends has a report of a verdict that does not allow a connection")
    if unknown := set(np.unique(ends["how"]).tolist()) - set(How):
        raise ValueError(f"ends has an unknown end: {min(unknown)}")
    times = np.array([verdicts["time_ns"], ends["since_ns"], ends["until_ns"]])
    earliest, latest = int(times.min()), int(times.max())
    if not are_times(earliest, latest, clock):
        raise ValueError(f"a time in ends is out of range: {earliest} to {latest}, {clock}")
    return ends
