"""Records of the topic that the client did not read, or read in part, because they are larger than its bounds."""

from __future__ import annotations

from typing import NamedTuple

from streams.kafka.dead_letter_form import Headers


class Unread(NamedTuple):
    """Why a record was not read whole."""

    first: int
    """The first offset that it stands for: one record stands for a whole batch."""
    error: str
    original: Headers
    """What the value was, if only its beginning is here, for the headers of a dead letter."""
    kept: bytes = b""
    """The beginning of the value."""
    reason: str = "too_large"
    """The reason of the dead letter."""


Value = bytes | Unread | None
"""What was read of a record."""
UnreadRecords = dict[tuple[int, int], Unread]
"""By partition and offset."""
