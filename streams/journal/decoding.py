"""Decodes the records of the journal, for its readers and for a writer that begins."""

from __future__ import annotations

from enrich.wire.journal import JournalEntry, decode_entry
from streams.kafka.records import Record


def entry_of(record: Record, now_ns: int) -> JournalEntry:
    """Return the entry in a record. Raises :class:`enrich.wire.journal.JournalError`.

    Kafka sets the time of a record. An entry that was ahead of that when it was written is refused also when its own
    time has come."""
    stamp_ns = record.timestamp_ms * 1_000_000 if record.timestamp_ms > 0 else now_ns
    return decode_entry(record.value, record.key, min(stamp_ns, now_ns))
