"""RFC 3339 times in UTC, as records on Kafka carry them."""

from __future__ import annotations

import time


def rfc3339(seconds: float) -> str:
    """Format seconds since the epoch with three decimals: ``2026-09-21T14:13:19.000Z``."""
    whole, milliseconds = divmod(int(seconds * 1000), 1000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(whole))}.{milliseconds:03d}Z"
