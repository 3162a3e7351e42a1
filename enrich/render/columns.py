"""Columns of verdicts as lists of what a record has in their place: addresses and times as text.

A column becomes a list in one step. What is distinct in it is few, and is rendered once.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from enrich.render.eviction import victims
from enrich.render.fragments import second_text
from enrich.render.interning import Int64Array
from enrich.render.merged_batch import VerdictArray
from enrich.wire.mapped_address import address_text

NO_ADDRESS: Final = bytes(16)
_SECOND: Final = 1_000_000_000


class AddressTexts(dict[bytes, str]):
    """The text of an address by its 16 bytes; no text for :data:`NO_ADDRESS`."""

    def __missing__(self, raw: bytes) -> str:
        text = self[raw] = address_text(raw) if raw != NO_ADDRESS else ""
        return text

    def evict(self, count: int) -> None:
        """Forget some texts."""
        known = list(self)
        for place in victims(np.zeros(len(known), bool), count).tolist():
            del self[known[place]]


def raw_addresses(column: np.ndarray[Any, Any]) -> list[bytes]:
    """Return the 16 bytes of each address of a column."""
    addresses: list[bytes] = np.ascontiguousarray(column).view("V16").ravel().tolist()
    return addresses


def timestamps(verdicts: VerdictArray, wall: Int64Array) -> tuple[list[str], list[str]]:
    """Return RFC 3339 text, without the zone, of the first and the last packet of each verdict."""
    first = wall_texts(wall)
    spans = verdicts["span_ms"]
    if not spans.any():
        return first, first
    return first, wall_texts(wall + spans.astype(np.int64) * 1_000_000)


def wall_texts(wall: Int64Array) -> list[str]:
    """Return RFC 3339 text, without the zone, of times of the wall clock in nanoseconds."""
    seconds, nanos = np.divmod(wall, _SECOND)
    listed = seconds.tolist()
    texts = {second: second_text(second) for second in set(listed)}
    # The leading 1 of nanos + 10^9 keeps the zeros, and is cut off again.
    return [texts[second] + str(nano)[1:] for second, nano in zip(listed, (nanos + _SECOND).tolist(), strict=True)]
