"""The form of a dead letter: its headers, and what is left of a record that is too large."""

from __future__ import annotations

import hashlib
from typing import Final

Headers = list[tuple[str, bytes]]

MAX_VALUE_BYTES: Final = (8 << 20) - (64 << 10)
"""The longest value that is sent whole: what the dead-letter topic takes, as this service creates it, less the headers
and Kafka's own fields."""
CUT_VALUE_BYTES: Final = 64 << 10
"""The bytes that are left of a longer one, or of one that the broker refuses. Every broker takes so much."""
_MAX_ERROR_CHARACTERS: Final = 1000
_MAX_KEY_BYTES: Final = 16 << 10
"""The longest key that is kept: no record of ours has a longer one."""


def headers_of(
    topic: str, partition: int, offset: int, reason: str, error: str, key: bytes = b"", output: str = ""
) -> Headers:
    """Return the headers of a dead letter: where the record was read, its key, and why it is here. A long error is
    cut. ``output`` is what has refused the record: the consumer group of a sink, or a topic."""
    texts = {
        "reason": reason,
        "topic": topic,
        "partition": str(partition),
        "offset": str(offset),
        "error": error[:_MAX_ERROR_CHARACTERS],
    }
    if output:
        texts["output"] = output
    headers = [(name, text.encode(errors="replace")) for name, text in texts.items()]
    return [*headers, ("key", key)] if 0 < len(key) <= _MAX_KEY_BYTES else headers


def key_of(topic: str, partition: int, offset: int) -> bytes:
    """Return the key of a dead letter: where the record was read."""
    return f"{topic}/{partition}/{offset}".encode()


def cut(value: bytes, headers: Headers, limit: int = MAX_VALUE_BYTES) -> tuple[bytes, Headers]:
    """Return a value that fits, and its headers.

    Of a value longer than ``limit`` bytes only the first 64 KiB are left; the headers ``original_bytes`` and
    ``original_sha256`` then say what it was."""
    if len(value) <= limit:
        return value, headers
    return value[:CUT_VALUE_BYTES], [*headers, *originals(value)]


def originals(value: bytes) -> Headers:
    """Return the headers that say what a value was that is cut."""
    return [
        ("original_bytes", str(len(value)).encode()),
        ("original_sha256", hashlib.sha256(value).hexdigest().encode()),
    ]
