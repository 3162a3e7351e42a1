"""What `weir observe` says of verdicts that the limits of nodes have cut, from the status topic."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Final, Literal

import click
import msgspec

from enrich.wire.bounds import Cluster, Count, Node, RingId, Seconds
from streams.kafka.connection import ReadError
from streams.kafka.ranges import Reader, ends_of, read_range
from streams.observing.observe import LastKeys, Window, unix_ms

_RECORDS_PER_READ: Final = 1000


class LimitedVerdicts(msgspec.Struct, frozen=True, kw_only=True):
    """A status record about verdicts that a limit has cut."""

    type: Literal["cut"]
    by: Literal["limit"]
    decided: Literal["allowed", "denied"] = msgspec.field(name="class")
    cluster: Cluster
    node: Node
    ring: RingId
    verdicts: Count
    total: Count
    seconds: Seconds = 0.0

    @property
    def line(self) -> str:
        """The record for people."""
        where = f" in {self.seconds:,.0f} s" if self.seconds >= 1 else ""
        what = f"{self.verdicts:,} {self.decided} verdicts not logged{where}"
        return f"node {self.node}: {what}: WEIR_LIMIT_{self.decided.upper()}"


_decode = msgspec.json.Decoder(LimitedVerdicts).decode


class LimitedLines:
    """Writes a line for each record, or for what several past ones say together."""

    def __init__(self, reader: Reader, clusters: Collection[str], write: Callable[[str], None]) -> None:
        """``clusters`` are those to be shown; empty: all."""
        self._reader, self._clusters, self._write = reader, clusters, write
        self._keys = LastKeys()
        self._is_readable = True

    def ends(self) -> dict[int, int]:
        """Return where the past ends."""
        with self._unread():
            return ends_of(self._reader)
        return {}

    def show_past(self, window: Window, ends: Mapping[int, int]) -> None:
        """Write a line for each node and class of which verdicts were cut in a window."""
        with self._unread():
            for one in self._sums(window, ends):
                self._write(one.line)

    def _sums(self, window: Window, ends: Mapping[int, int]) -> Iterable[LimitedVerdicts]:
        found: dict[tuple[str, str, str], LimitedVerdicts] = {}
        start, until = self._reader.at_time(unix_ms(window.since)), window.until
        for record in read_range(self._reader, start, ends, window.read_until_ms):
            if until is not None and record.timestamp_ms >= unix_ms(until):
                continue
            one = self._read(record.value)
            if one is None:
                continue
            before = found.get(place := (one.cluster, one.node, one.decided))
            if before is not None:
                verdicts, seconds = before.verdicts + one.verdicts, before.seconds + one.seconds
                one = msgspec.structs.replace(one, verdicts=verdicts, seconds=seconds)
            found[place] = one
        return found.values()

    def follow_from(self, ends: Mapping[int, int]) -> None:
        """Begin to read where the past ends."""
        with self._unread():
            self._reader.start(ends)

    def show_new(self) -> None:
        """Write a line for each record that has come."""
        if self._is_readable:
            with self._unread():
                for record in self._reader.take(_RECORDS_PER_READ, 0):
                    if (one := self._read(record.value)) is not None:
                        self._write(one.line)

    @contextlib.contextmanager
    def _unread(self) -> Iterator[None]:
        """Give up if the topic cannot be read: flows are shown all the same."""
        try:
            yield
        except ReadError as error:
            if self._is_readable:
                click.echo(f"weir: what limits have cut is missing here: {error}", err=True)
            self._is_readable = False

    def _read(self, value: bytes) -> LimitedVerdicts | None:
        """Decode a record; None if it is about something else, not to be shown, or a repeat."""
        if b'"cut"' not in value:
            return None  # most of the topic is tallies and heartbeats, which need not be decoded
        try:
            one = _decode(value)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None
        if self._clusters and not any(fnmatchcase(one.cluster, name) for name in self._clusters):
            return None
        return None if self._keys.is_repeat((one.ring, one.decided, one.total)) else one
