"""What the journal has: the last state of each object, as entries say it, and as a writer that begins reads it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from enrich.sources.versions import Version
from enrich.wire.journal import DAY_NS, GAP, HEARTBEAT, REPEAT_NS, JournalEntry, JournalError, decode_entry
from streams.journal.observed import Key, Observed
from streams.kafka.records import Record

_MS: Final = 1_000_000
BACK_MS: Final = (REPEAT_NS + DAY_NS) // _MS
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

    def apply(self, entry: JournalEntry) -> None:
        """Note an entry that is in the journal. Entries of other clusters are ignored."""
        if entry.cluster != self.cluster:
            return
        self.last_ns = max(self.last_ns, entry.seen_ns)
        if entry.kind in (GAP, HEARTBEAT):
            return
        key = Key(entry.kind, entry.namespace, entry.name)
        if entry.gone:
            self.states.pop(key, None)
            return
        version = Version(entry.resource_version, entry.generation, entry.changed_by)
        state = b"" if entry.refused else bytes(entry.object)
        last = Observed(key, entry.uid, state, version, entry.seen_ns, entry.refused)
        self.states[key] = Written(last, entry.since_ns or entry.seen_ns, entry.seen_ns)


def read_states(
    cluster: str,
    newest_ms: int,
    read: Callable[[int], Iterable[Record]],
    on_bad: Callable[[], object],
) -> Journal:
    """Read the last states of a cluster's journal. ``newest_ms`` is the time of the newest record of the topic (-1: it
    has none), and ``read`` reads it from a time on.

    Another cluster on the same topic may have written for longer than this one; then it is read again from earlier."""
    since_ms = max(0, newest_ms - BACK_MS)
    while True:
        journal = Journal(cluster)
        for record in read(since_ms):
            try:
                journal.apply(decode_entry(record.value, record.key, time.time_ns()))
            except JournalError:
                on_bad()
        needed_ms = max(0, journal.last_ns // _MS - BACK_MS)
        if not since_ms or since_ms <= needed_ms + 1 or newest_ms < 0:
            return journal
        since_ms = needed_ms
