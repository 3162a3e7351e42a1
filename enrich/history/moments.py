"""Times in the texts of answers."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

_SECOND_NS: Final = 1_000_000_000
_LAST_S: Final = 253_402_300_799
"""The last second of the year 9999; RFC 3339 cannot write a later one."""


def moment(ns: int) -> str:
    """Return nanoseconds since the epoch to the second: ``2026-11-29T19:02:52Z``."""
    seconds = min(ns // _SECOND_NS, _LAST_S)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%SZ}"
