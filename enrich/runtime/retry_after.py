"""The header Retry-After of HTTP (RFC 9110, section 10.2.3): how long a server asks to be left alone."""

from __future__ import annotations

import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime


def retry_after_s(headers: Mapping[str, str]) -> float:
    """Return the seconds that the header asks for; 0 if it is missing or cannot be read.

    A server may ask for days by mistake: the caller limits what it obeys."""
    text = headers.get("Retry-After") or ""
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        left = parsedate_to_datetime(text).timestamp() - time.time()
    except (ValueError, OverflowError):
        return 0.0
    return max(0.0, left)
