"""What a sink is: two methods, and three errors, which say how far a write has come."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from enrich.wire.flow import Flow
from streams.forms.reading import read_record


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
        return read_record(value)
    except ValueError as error:
        raise RefusedError(f"the value is not a flow record: {error}") from error
