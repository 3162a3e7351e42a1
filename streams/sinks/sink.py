"""What a sink is: two methods, and three errors, which say how far a write has come."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Final, Protocol

from enrich.wire.flow import Flow, decode_flow

_TIME: Final = re.compile(r"(?:19[7-9]|20[0-9]|21[0-9])[0-9]-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{9}Z")
"""The times of a record. OTLP has no year before 1970, and 64 bits of nanoseconds end in 2262."""


class WriteError(RuntimeError):
    """A write did not store all of its records.

    ``done`` is how many of the first ones the destination has stored: the caller must not write them again."""

    def __init__(self, message: str, *, done: int = 0) -> None:
        super().__init__(message)
        self.done = done


class SinkError(WriteError):
    """The destination cannot take records at the moment; the caller retries. The message says why.

    ``retry_after_s`` is how long the destination asks to be left alone, 0 if it does not say."""

    def __init__(self, message: str, *, done: int = 0, retry_after_s: float = 0.0) -> None:
        super().__init__(message, done=done)
        self.retry_after_s = retry_after_s


class RefusedError(WriteError):
    """The destination will never accept at least one of some records; the caller must not retry them all together.

    ``tried`` is how many records these are, after the ``done`` first ones; None: all the others. The message says
    why."""

    def __init__(self, message: str, *, done: int = 0, tried: int | None = None) -> None:
        super().__init__(message, done=done)
        self.tried = tried


class PartlyRefusedError(RefusedError):
    """The destination has stored the ``tried`` records except ``rejected`` ones, and does not say which ones those are.

    None of the ``tried`` records may be written again."""

    def __init__(self, message: str, rejected: int, *, tried: int, done: int = 0) -> None:
        super().__init__(message, done=done, tried=tried)
        self.rejected = rejected


class Sink(Protocol):
    """Takes records at least once, in the order of their partitions."""

    def write(self, values: Sequence[bytes]) -> None:
        """Return when the destination has stored the records.

        Raises SinkError, RefusedError or PartlyRefusedError. The caller also calls it without any records from time to
        time, so that a sink can do periodic work."""

    def close(self) -> None:
        """Release the connection or file."""


def write_in_requests(values: Sequence[bytes], limit: int, send: Callable[[Sequence[bytes]], None]) -> None:
    """Send the records in requests of at most ``limit``. An error says how many records earlier requests stored.

    Raises what ``send`` raises."""
    for first in range(0, len(values), limit):
        request = values[first : first + limit]
        try:
            send(request)
        except RefusedError as error:
            error.done += first
            error.tried = len(request) if error.tried is None else error.tried
            raise
        except WriteError as error:
            error.done += first
            raise


def decode(value: bytes) -> Flow:
    """Decode a flow record for a sink. Raises RefusedError for a value that is not one."""
    try:
        flow = decode_flow(value)
        for text in (flow.timestamp, flow.last_timestamp):
            _check_time(text)
    except ValueError as error:
        raise RefusedError(f"the value is not a flow record: {error}") from error
    return flow


def _check_time(text: str) -> None:
    """Raise ValueError for what is not a time as the enricher writes it: forms and destinations count on it."""
    if not _TIME.fullmatch(text):
        raise ValueError(f"{text[:40]!r} is not a time in UTC with nine decimals")
    datetime.fromisoformat(text[:19])  # no month 13
