"""What a sink is: two methods, and two errors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from enrich.wire.flow import Flow, decode_flow


class SinkError(RuntimeError):
    """The destination cannot take records at the moment; the caller retries. The message says why."""


class RefusedError(RuntimeError):
    """The destination will never accept at least one of the records; the caller must not retry them all together.

    The message says why."""


class Sink(Protocol):
    """Takes records at least once, in the order of their partitions."""

    def write(self, values: Sequence[bytes]) -> None:
        """Return when the destination has stored the records.

        Raises SinkError, or RefusedError, after which the destination may have some of the records. The caller also
        calls it without any records from time to time, so that a sink can do periodic work."""

    def close(self) -> None:
        """Release the connection or file."""


def decode(value: bytes) -> Flow:
    """Decode a flow record for a sink. Raises RefusedError for a value that is not one."""
    try:
        return decode_flow(value)
    except ValueError as error:
        raise RefusedError(f"the value is not a flow record: {error}") from error
