"""Which counters of the kernel say what is missing from the log, lost or left out on purpose."""

from __future__ import annotations

from typing import Final

from enrich.wire.cuts import ALLOWED, DENIED, LIMIT, LOGGING
from probe.kernel.layout import Counter

LOST: Final = (Counter.RING_FULL, Counter.DENY_WINDOWS_FULL)
"""Verdicts of allowed connections, and denied packets that no window could count."""
ENDS_LOST: Final = {
    "ring_full": Counter.ENDS_LOST,
    "no_place": Counter.ENDS_UNPLACED,
    "uncertain": Counter.ENDS_UNCERTAIN,
}
"""Reports of connections that were not written, by reason."""
CUT: Final = {
    (LOGGING, ALLOWED): Counter.CUT_ALLOWED,
    (LOGGING, DENIED): Counter.CUT_DENIED,
    (LIMIT, ALLOWED): Counter.LIMITED_ALLOWED,
    (LIMIT, DENIED): Counter.LIMITED_DENIED,
}
"""What is not logged on purpose, by its kind in the headers of batches."""
