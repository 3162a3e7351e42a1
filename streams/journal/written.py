"""What the journal has: the last state of each object, as entries say it, and as a writer that begins reads it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from enrich.sources.versions import Version
from enrich.wire.journal import (
    GAP,
    HEARTBEAT,
    REPEATED_NS,
    JournalEntry,
    JournalError,
    unreadable_entry,
)
from streams.journal.decoding import entry_of
from streams.journal.observed import Key, Observed
from streams.kafka.connection import ReadError
from streams.kafka.records import Record

_MS: Final = 1_000_000
_BYTES_OF_A_STATE: Final = 1000
_MAX_SIZE: Final = 1 << 29
"""Limit of the bytes of all states: a hundred times those of a large cluster, and a part of the container's memory."""
BACK_MS: Final = REPEATED_NS // _MS
"""The last entries of all objects are within so long before the last entry of all."""


class Written(NamedTuple):
    """The last state of an object in the journal."""

    last: Observed
    first_ns: int
    """When the journal has it from."""
    written_ns: int
    """When it was written last."""


@dataclass(slots=True)
class Journal:
    """The last states of one cluster's journal."""

    cluster: str
    states: dict[Key, Written] = field(default_factory=dict)
    """Objects that exist, by the journal."""
    last_ns: int = 0
    """The time of the last entry; 0: there is none."""
    doubted: set[Key] = field(default_factory=set)
    """Objects whose state readers do not know, because their last record is not an entry."""
    end_offset: int = -1
    """The offset of the last record that was read."""
    size: int = 0
    """About how many bytes the states take."""

    def apply(self, entry: JournalEntry) -> None:
        """Note an entry that is in the journal. Entries of other clusters are ignored."""
        if entry.cluster != self.cluster:
            return
        self.last_ns = max(self.last_ns, entry.seen_ns)
        self.put(entry)

    def doubt(self, key: bytes) -> None:
        """Note that readers do not know the state of the object that the key of a record names, because the record is
        not an entry."""
        entry = unreadable_entry(key, self.last_ns)
        if entry is not None and entry.cluster == self.cluster:
            self.put(entry)
            self.doubted.add(Key(entry.kind, entry.namespace, entry.name))

    def put(self, entry: JournalEntry) -> None:
        """Note what an entry says of its object."""
        if entry.kind in (GAP, HEARTBEAT):
            return
        key = Key(entry.kind, entry.namespace, entry.name)
        before = self.states.pop(key, None)
        self.doubted.discard(key)
        self.size -= _size(before) if before is not None else 0
        if entry.gone:
            return
        version = Version(entry.resource_version, entry.generation, entry.changed_by)
        state = b"" if entry.refused else bytes(entry.object)
        last = Observed(key, entry.uid, state, version, entry.seen_ns, entry.refused)
        self.states[key] = Written(last, entry.since_ns or entry.seen_ns, entry.seen_ns)
        self.size += _size(self.states[key])


def _size(one: Written) -> int:
    return _BYTES_OF_A_STATE + len(one.last.state)


def read_states(
    cluster: str,
    newest_ms: int,
    read: Callable[[int], Iterable[Record]],
    on_bad: Callable[[], object],
) -> Journal:
    """Read the last states of a cluster's journal. ``newest_ms`` is the time of the newest record of the topic (-1: it
    has none), and ``read`` reads it from a time on.

    Another cluster on the same topic may have written for longer than this one; then it is read again from earlier.
    Raises ReadError if the states take more memory than those of any cluster."""
    since_ms = max(0, newest_ms - BACK_MS)
    while True:
        journal = Journal(cluster)
        for record in read(since_ms):
            journal.end_offset = max(journal.end_offset, record.offset)
            try:
                journal.apply(entry_of(record, time.time_ns()))
            except JournalError:
                on_bad()
                journal.doubt(record.key)
            if journal.size > _MAX_SIZE:
                raise ReadError(
                    f"the states in the journal take more than {_MAX_SIZE >> 20} MiB: somebody else writes to its topic"
                )
        needed_ms = max(0, journal.last_ns // _MS - BACK_MS)
        if not since_ms or since_ms <= needed_ms + 1 or newest_ms < 0:
            return journal
        since_ms = needed_ms
