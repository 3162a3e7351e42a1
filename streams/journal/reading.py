"""Reads the journal for commands, from as early as the state of a time needs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from enrich.wire.journal import DAY_NS, GAP, REPEATED_NS, JournalEntry, JournalError
from enrich.wire.topics import Topics
from streams.journal.decoding import entry_of
from streams.kafka.connection import Connection, NoTopicError, ReadError
from streams.kafka.ranges import Reader, read_range
from streams.kafka.reading import TopicReader
from streams.kafka.records import Record

_PATIENCE_S: Final = 20.0
"""How long Kafka may send nothing before the end is reached."""
_MAX_NAMED: Final = 5
MAX_MEMORY: Final = 4 << 30
_BYTES_OF_AN_ENTRY: Final = 1500
_BYTES_OF_A_VALUE: Final = 37
OFF: Final = "The journal is off where workers have WEIR_JOURNAL_DAYS=0."
OnBad = Callable[[Record, str], None]
"""Takes a record that is not an entry, and why."""


def read_journal(
    connection: Connection,
    topics: Topics,
    cluster: str = "",
    since_ns: int = 0,
    on_bad: OnBad = lambda _record, _why: None,
) -> Iterator[JournalEntry]:
    """Yield the entries of one cluster's journal in their order, to its end as of now.

    They begin early enough for the whole state as of ``since_ns``, as far back as the topic goes. What retention has
    removed is a gap that comes first, and that ends where every state has been repeated. ``cluster`` may be empty if
    the topic has only one. A record that cannot be read is handed to ``on_bad``, and the rest is read.

    Raises :class:`streams.kafka.connection.ReadError` (NoTopicError: there is no journal), also if Kafka sends nothing
    for 20 seconds."""
    try:
        reader = TopicReader(connection, topics.journal.name)
    except NoTopicError as error:
        raise NoTopicError(f"{error} {OFF}") from error
    try:
        yield from _read(reader, topics.journal.name, cluster, since_ns, on_bad)
    finally:
        reader.close()


def _read(reader: Reader, topic: str, cluster: str, since_ns: int, on_bad: OnBad) -> Iterator[JournalEntry]:
    bounds = reader.bounds()
    from_ns = since_ns - REPEATED_NS - DAY_NS
    starts = reader.at_time(from_ns // 1_000_000) if from_ns > 0 else {one: first for one, (first, _) in bounds.items()}
    is_cut = any(starts[one] <= first and first > 0 for one, (first, _) in bounds.items())
    clusters: set[str] = set()
    ends = {one: end for one, (_, end) in bounds.items()}
    for record in read_range(reader, starts, ends, patience_s=_PATIENCE_S, topic=topic):
        try:
            entry = entry_of(record, time.time_ns())
        except JournalError as error:
            on_bad(record, record.unread or str(error))
            continue
        if cluster and entry.cluster != cluster:
            continue
        clusters.add(entry.cluster)
        if len(clusters) > 1:
            raise ReadError(
                f"{topic} has the journals of several clusters ({', '.join(sorted(clusters)[:_MAX_NAMED])}, ...): say "
                "which one with --cluster or WEIR_CLUSTER"
            )
        if is_cut:
            is_cut = False
            yield JournalEntry(cluster=entry.cluster, kind=GAP, seen_ns=entry.seen_ns + REPEATED_NS)
        yield entry


class JournalSizeError(ReadError):
    """What is made of the journal does not fit in memory."""


def within_memory(entries: Iterable[JournalEntry], topic: str, most: int = MAX_MEMORY) -> Iterator[JournalEntry]:
    """Yield entries as long as what is made of them fits in memory: about 4 GiB, which is more than a year of a cluster
    of 10,000 pods takes. Raises JournalSizeError."""
    used = 0
    for entry in entries:
        state = bytes(entry.object)
        # Measured: an entry, and each object, list and text in its state. Many empty rules take 25 times their bytes.
        values = state.count(b"{") + state.count(b"[") + state.count(b'"') + state.count(b",")
        used += _BYTES_OF_AN_ENTRY + len(state) + _BYTES_OF_A_VALUE * values
        if used > most:
            raise JournalSizeError(
                f"{topic} has more versions than fit in memory ({most >> 20:,} MiB): ask about a later time, and "
                "look whether somebody else writes to it"
            )
        yield entry
