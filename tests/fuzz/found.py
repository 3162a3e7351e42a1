"""Records that ended a reader, as small as they get: each time the topic, and the values, of which most have one."""

from __future__ import annotations

from typing import Final

FOUND: Final[tuple[tuple[str, tuple[bytes, ...]], ...]] = (
    ("status", (b"[" * 5000,)),
    # A record without labels could not be written again when its alert was resolved.
    (
        "alerts.state",
        (
            b'{"v":1,"rule":"","version":"","group":["",""],"status":"firing","record":{"id":"","rule":"",'
            b'"fingerprint":"","status":"","timestamp":"","startsAt":""}}',
        ),
    ),
    # Under a key that has no fingerprint, the state of a rule that is gone ended the role alerts at each start.
    (
        "alerts.state",
        (
            b'{"v":1,"rule":"","version":"","group":[""],"status":"firing","record":{"id":"","rule":"",'
            b'"fingerprint":"","status":"","labels":"","timestamp":"","startsAt":""}}',
        ),
    ),
)
