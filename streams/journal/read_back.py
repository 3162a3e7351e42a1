"""What the writer of the journal reads back: whether it alone writes, and what readers make of other records.

The writer is the only one of its cluster, so a record that it has not written is somebody else's. Readers cannot know
that. They believe an entry, and take the state of an object as unknown after a record that names it and is no entry. So
the writer reports such a record, and writes the true state of the object again; behind an entry it writes a gap first.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from typing import Final

from enrich.wire.journal import JournalError, decode_entry
from streams.journal.written import Journal
from streams.kafka.exactly_once import Write
from streams.kafka.records import Record

_MAX_OWN: Final = 600_000
"""More than the states that a journal may have, because the first writer of a journal writes them all at once."""
_MAX_REPORTED: Final = 1000
"""Entries of somebody else that wait to be reported. Of more, these are enough."""
_FOREIGN: Final = object()


class ReadBack:
    """The records of the topic since this worker writes."""

    def __init__(self, on_bad: Callable[[Record, str], None], now_ns: Callable[[], int]) -> None:
        """``on_bad`` takes records that are not entries, and entries of somebody else."""
        self._on_bad, self._now_ns = on_bad, now_ns
        self._own: dict[int, None] = {}
        """Hashes of what this writer wrote, or tried to write, and has not read back."""
        self.is_disturbed = False
        """Whether somebody else has written an entry, for which the writer has not made up yet."""
        self._foreign: list[Record] = []
        """Entries of somebody else. That may be the next writer, if this one was frozen, which only Kafka knows."""

    def begin(self) -> None:
        """Forget what was read before: another worker may have written meanwhile."""
        self._foreign.clear()

    def made_up(self) -> None:
        """Report entries of somebody else: a commit has shown that this worker is the writer."""
        for record in self._foreign:
            self._on_bad(record, "this worker writes the journal, and has not written this entry")
        self._foreign.clear()
        self.is_disturbed = False

    def wrote(self, writes: Iterable[Write]) -> None:
        """Note entries before they are written: even if that fails, Kafka may have them."""
        self._own.update(dict.fromkeys(hash((one.key, one.value)) for one in writes))
        for oldest in list(itertools.islice(self._own, max(0, len(self._own) - _MAX_OWN))):
            del self._own[oldest]

    def check(self, records: Iterable[Record], journal: Journal | None) -> None:
        """Report what is not an entry, also of other clusters, or not one of this writer's. ``journal`` is what it has
        written; None while another worker writes."""
        for record in records:
            is_new = journal is not None and record.offset > journal.end_offset
            try:
                entry = decode_entry(record.value, record.key, self._now_ns())
            except JournalError as error:
                self._on_bad(record, record.unread or str(error))
                if journal is not None and is_new:
                    journal.doubt(record.key)
                continue
            is_own = self._own.pop(hash((record.key, record.value)), _FOREIGN) is not _FOREIGN
            if journal is not None and is_new and not is_own and entry.cluster == journal.cluster:
                self._foreign += [record] if len(self._foreign) < _MAX_REPORTED else []
                journal.put(entry)
                self.is_disturbed = True
