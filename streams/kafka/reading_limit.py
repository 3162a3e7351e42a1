"""Limits for how long and how much a thread reads from Kafka without a consumer group.

A question about the past reads several topics, deep in functions that commands and the page share. A command has no
limit, because its user can end it. The page asks the same questions for many people at once. So the thread that asks
sets a limit (:func:`reading_within`), and the readers count the bytes that they return to it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from streams.kafka.connection import ReadError


class ReadingLimitError(ReadError):
    """A question needs more than it may read."""


class _Limit:
    def __init__(self, seconds: float, max_bytes: int) -> None:
        self.seconds, self.max_bytes = seconds, max_bytes
        self.deadline, self.left = time.monotonic() + seconds, max_bytes


_limit: ContextVar[_Limit | None] = ContextVar("reading_limit", default=None)


@contextmanager
def reading_within(seconds: float, max_bytes: int) -> Iterator[None]:
    """Make reads of this thread in the block raise ReadingLimitError after some time, or when they have read more
    bytes of values."""
    token = _limit.set(_Limit(seconds, max_bytes))
    try:
        yield
    finally:
        _limit.reset(token)


def is_limited() -> bool:
    """Return whether this thread may only read so much."""
    return _limit.get() is not None


def spend(size: int = 0) -> None:
    """Count bytes that were read. Raises ReadingLimitError if the thread may read no more."""
    limit = _limit.get()
    if limit is None:
        return
    limit.left -= size
    if limit.left < 0:
        raise ReadingLimitError(f"this needs more than {limit.max_bytes >> 20} MiB from Kafka")
    if time.monotonic() > limit.deadline:
        raise ReadingLimitError(f"reading this takes longer than {limit.seconds:.0f} s")
