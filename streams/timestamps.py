"""RFC 3339 times in UTC, as records on Kafka carry them."""

from __future__ import annotations

import time


def rfc3339(seconds: float, decimals: int = 3) -> str:
    """Format seconds since the epoch: ``2026-09-21T14:13:19.000Z``. Digits after the milliseconds are zero."""
    whole, milliseconds = divmod(int(seconds * 1000), 1000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(whole))}.{milliseconds:03d}{'0' * (decimals - 3)}Z"


def rfc3339_ns(nanoseconds: int) -> str:
    """Format nanoseconds since the epoch, to the nanosecond."""
    whole, rest = divmod(nanoseconds, 1_000_000_000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(whole))}.{rest:09d}Z"
