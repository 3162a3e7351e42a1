"""Writes the journal: what was observed, each state once.

THEORY OF OPERATION

1. *One writer.* Every `weir-streams` observes the cluster. The consumer group of the journal's one partition says which
   of them writes, and each transaction carries the group's generation, so that Kafka refuses one that was frozen
   and goes on later (:mod:`streams.kafka.exactly_once`).
2. *Begin.* A new writer reads the last states that the journal has, and waits until its source has listed everything.
   Then it writes a gap, from the last entry until now, and each object that differs from its last state, or is gone.
   So it writes no version twice, even if a worker is killed at any moment.
3. *Go on.* Ten times a second it writes the states that the source has observed since, in their order. After five
   minutes without any it writes a heartbeat, and when it stops, one more.
4. *After an aborted transaction* the writer reads the journal again. If no other worker has written meanwhile, the
   states that it observed are still complete: it goes on with those that the journal does not have. There is no gap,
   unless all this took longer than :data:`MAX_SILENCE_NS`, as it does when Kafka is away.
5. *Somebody else writes.* Then there is a gap, and the true states again (:mod:`streams.journal.read_back`).
6. *A gap of the source.* If the API server could not be watched for :data:`MAX_SILENCE_NS`, changes were seen late, so
   that time is a gap too. The writer compares with its last step, so a time in which it could not write is one as well.
   While a gap lasts, the writer writes a part of it every two minutes: readers do not believe that a gap began long
   before it was written (:mod:`enrich.history.timeline`), because a forger could make the past unknown with one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import msgspec
import structlog

from enrich.wire.journal import GAP, HEARTBEAT, REPEAT_NS, JournalEntry, encode_entry
from streams.journal.observed import Key, Observed, ObservedStates
from streams.journal.profiles import Profiles
from streams.journal.read_back import ReadBack
from streams.journal.written import Journal
from streams.kafka.connection import ReadError
from streams.kafka.exactly_once import TransactionAbortedError, Write
from streams.kafka.records import Record, TopicAndPartition

log = structlog.get_logger("kubeweir.streams")

_S: Final = 1_000_000_000
MAX_SILENCE_NS: Final = 15 * _S
GAP_PART_NS: Final = 120 * _S
"""While a gap lasts, it is written in parts of this length."""
HEARTBEAT_NS: Final = 300 * _S
_POLL_S: Final = 0.1
_MAX_RECORDS: Final = 5000
_MAX_ENTRIES: Final = 1000
"""Limit of entries in one transaction."""
_IDLE_COMMIT_S: Final = 5.0
"""Interval in which offsets are committed even without an entry, because the broker's answer shows whether this writer
may still write."""
_REPEATS_EVERY_S: Final = 60.0
_FUTURE_MS: Final = 1 << 42
SORTS: Final = ("version", "gone", "refused", "repeat", "gap", "heartbeat")
"""The sorts of entries, as a label of metrics has them."""


class Transactions(Protocol):
    """See :class:`streams.kafka.exactly_once.ExactlyOnce`."""

    def take(self, max_records: int, wait_s: float) -> list[Record]: ...

    def commit(self, writes: Iterable[Write]) -> None: ...


@dataclass(frozen=True, slots=True)
class Observation:
    """What a source observes of the cluster."""

    states: ObservedStates
    profiles: Profiles
    is_synced: Callable[[], bool]
    """Return whether everything has been listed."""
    synced_until_ns: Callable[[], int]
    """Return until when what the API server published was observed."""


class JournalWriter:
    """The loop of the role `journal`. One thread uses it."""

    def __init__(
        self,
        topic: str,
        observation: Observation,
        read_journal: Callable[[], Journal],
        on_bad: Callable[[Record, str], None],
        count: Callable[[str], object] = lambda _what: None,
        now_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        """``read_journal`` reads the last states, and raises ReadError. ``on_bad`` takes records of the topic that are
        not entries, or not this writer's. ``count`` takes the sort of each entry that was written."""
        self.records_read = 0
        """How many records ``read_journal`` has read: that takes long, and is no call that hangs."""
        self._topic, self._observation, self._read_journal = topic, observation, read_journal
        self._count, self._now_ns = count, now_ns
        self._read_back = ReadBack(on_bad, now_ns)
        self._journal: Journal | None = None
        """What the journal has; None while another worker writes it."""
        self._is_continuous = False
        """Whether the states that wait are all that the journal does not have."""
        self._unwritten: list[Observed] = []
        """Taken from the source, at the times of their entries, and not known to be in the journal."""
        self._own_ends: set[int] = set()
        """The times of the last entries that this writer wrote, or tried to write."""
        self._cluster = ""
        self._complete_ns = self._gap_ns = 0
        """Up to when the journal has everything, and up to when its last gap goes."""
        self._committed_at = self._repeated_at = float("-inf")

    @property
    def complete_ns(self) -> int | None:
        """The time up to which everything observed is in the journal; None if another worker writes it."""
        return self._complete_ns if self._journal is not None else None

    @property
    def states(self) -> int:
        """How many objects the journal says exist; 0 if another worker writes it."""
        return len(self._journal.states) if self._journal is not None else 0

    def replay_from_ms(self, topic: str) -> int:
        """Return a time after all records: nothing is read twice, because :meth:`on_assigned` reads what it needs."""
        del topic
        return _FUTURE_MS

    def on_assigned(self, partitions: Sequence[TopicAndPartition]) -> None:
        """Begin to write, or leave it to another worker. Raises TransactionAbortedError."""
        self._journal = None
        if not partitions:
            return
        try:
            self._journal = self._read_journal()
        except ReadError as error:
            raise TransactionAbortedError(str(error)) from error
        self._cluster, last_ns = self._journal.cluster, self._journal.last_ns
        self._read_back.begin()
        if last_ns not in self._own_ends:
            self._is_continuous, self._complete_ns = False, last_ns
        # A transaction that failed for this client may have been committed.
        self._unwritten = [one for one in self._unwritten if one.seen_ns > last_ns]
        log.info("this worker writes the journal now", states=len(self._journal.states))

    def step(self, transactions: Transactions) -> None:
        """Write what is due. Raises TransactionAbortedError, StopServiceError."""
        self._read_back.check(transactions.take(_MAX_RECORDS, _POLL_S), self._journal)
        if self._journal is None:
            return
        if self._observation.is_synced():
            # Asked before the states are taken: what is published later is not in them for certain.
            complete_ns = min(self._now_ns(), self._observation.synced_until_ns())
            entries = self._due(self._journal, complete_ns)
            for start in range(0, len(entries), _MAX_ENTRIES):
                self._commit(transactions, entries[start : start + _MAX_ENTRIES])
            self._unwritten.clear()
            self._read_back.made_up()
            self._is_continuous, self._complete_ns = True, max(self._complete_ns, complete_ns)
        if time.monotonic() - self._committed_at > _IDLE_COMMIT_S:
            self._commit(transactions, [])

    def finish(self, transactions: Transactions) -> None:
        """Write a last heartbeat, so that the gap until the next writer begins here. Raises TransactionAbortedError."""
        if self._journal is not None and self._is_continuous and self._complete_ns > self._journal.last_ns:
            self._commit(transactions, [self._mark(HEARTBEAT, self._complete_ns)])

    # --- what is due

    def _due(self, journal: Journal, complete_ns: int) -> list[JournalEntry]:
        """Return the entries to write now. They are noted when they are committed."""
        now, states = self._now_ns(), self._observation.states
        states.put_profiles(self._observation.profiles.settle(now, patient=self._is_continuous))
        taken = states.take() if self._is_continuous and not self._read_back.is_disturbed else None
        if taken is None:
            self._is_continuous = False
            self._unwritten.clear()
            entries = self._outcome(journal, now)
        else:
            self._unwritten += taken
            entries = self._silence(journal, complete_ns)
            entries += self._in_order(journal, entries[-1].seen_ns if entries else journal.last_ns)
            entries += self._doubted(journal, entries)
        entries += self._repeats(journal, now, entries)
        if not entries and complete_ns - journal.last_ns > HEARTBEAT_NS:
            entries = [self._mark(HEARTBEAT, complete_ns)]
        return entries

    def _outcome(self, journal: Journal, now: int) -> list[JournalEntry]:
        """Return a gap, and every object that is not as the journal has it."""
        now = max(now, journal.last_ns + 1)
        found = self._observation.states.snapshot()
        entries = [self._mark(GAP, now, journal.last_ns)]
        for key, written in journal.states.items():
            if key not in found:
                gone = written.last._replace(state=b"", refused="")
                entries.append(self._entry(gone, now))
        for key, one in found.items():
            before = journal.states.get(key)
            if one.differs(before.last if before else None):
                entries.append(self._entry(one, now))
        return entries

    def _doubted(self, journal: Journal, entries: Sequence[JournalEntry]) -> list[JournalEntry]:
        """Return the states again that readers do not know, unless they change now."""
        seen_ns = max(self._now_ns(), journal.last_ns + 1, entries[-1].seen_ns if entries else 0)
        changing = {Key(one.kind, one.namespace, one.name) for one in entries}
        found = []
        for key in journal.doubted - changing:
            gone = journal.states[key].last._replace(state=b"", refused="")
            found.append(self._entry(self._observation.states.current(key) or gone, seen_ns))
        return found

    def _silence(self, journal: Journal, complete_ns: int) -> list[JournalEntry]:
        """Return a gap if the source has been silent for long, or nothing could be written for so long."""
        known_ns, now = max(self._complete_ns, self._gap_ns), self._now_ns()
        if complete_ns - known_ns > MAX_SILENCE_NS:
            until_ns = complete_ns
        elif now - known_ns > GAP_PART_NS:
            until_ns = now
        else:
            return []
        return [self._mark(GAP, max(until_ns, journal.last_ns + 1), known_ns)]

    def _in_order(self, journal: Journal, last_ns: int) -> list[JournalEntry]:
        """Return entries for the states that the journal does not have, at rising times."""
        entries: list[JournalEntry] = []
        timed: list[Observed] = []
        after: dict[Key, Observed | None] = {}
        for one in self._unwritten:
            known = journal.states.get(one.key)
            if not one.differs(after.get(one.key, known.last if known else None)):
                continue
            last_ns = max(one.seen_ns, last_ns + 1)
            timed.append(one._replace(seen_ns=last_ns))
            after[one.key] = timed[-1] if one.exists else None
            entries.append(self._entry(timed[-1], last_ns))
        self._unwritten = timed
        return entries

    def _repeats(self, journal: Journal, now: int, entries: Sequence[JournalEntry]) -> list[JournalEntry]:
        """Return the states that were written so long ago that retention will remove them, unless they change now."""
        if time.monotonic() - self._repeated_at < _REPEATS_EVERY_S:
            return []
        self._repeated_at = time.monotonic()
        changing = {Key(one.kind, one.namespace, one.name) for one in entries}
        seen_ns = max(now, journal.last_ns + 1, entries[-1].seen_ns if entries else 0)
        return [
            self._entry(one.last, seen_ns, one.first_ns)
            for key, one in journal.states.items()
            if now - one.written_ns > REPEAT_NS and key not in changing
        ]

    # --- entries

    def _mark(self, kind: str, seen_ns: int, since_ns: int = 0) -> JournalEntry:
        return JournalEntry(cluster=self._cluster, kind=kind, seen_ns=seen_ns, since_ns=since_ns)

    def _entry(self, one: Observed, seen_ns: int, since_ns: int = 0) -> JournalEntry:
        return JournalEntry(
            cluster=self._cluster,
            kind=one.key.kind,
            namespace=one.key.namespace,
            name=one.key.name,
            uid=one.uid,
            resource_version=one.version.resource_version,
            generation=one.version.generation,
            seen_ns=seen_ns,
            gone=not one.exists,
            refused=one.refused,
            object=msgspec.Raw(one.state or b"null"),
            changed_by=one.version.changed_by,
            since_ns=since_ns,
        )

    def _commit(self, transactions: Transactions, entries: Sequence[JournalEntry]) -> None:
        """Write entries in one transaction, and note them. Raises TransactionAbortedError."""
        writes = [Write(self._topic, one.key, encode_entry(one), 0) for one in entries]
        if entries:
            # Even if it fails, Kafka may have them.
            self._own_ends.add(entries[-1].seen_ns)
            self._read_back.wrote(writes)
        transactions.commit(writes)
        self._committed_at = time.monotonic()
        if self._journal is None or not entries:
            return
        self._own_ends = {entries[-1].seen_ns}
        for entry in entries:
            self._journal.apply(entry)
            if entry.kind == GAP:
                self._gap_ns = entry.seen_ns
            self._count(_sort_of(entry))


def _sort_of(entry: JournalEntry) -> str:
    if entry.kind in (GAP, HEARTBEAT):
        return entry.kind.lower()
    if entry.since_ns:
        return "repeat"
    return "gone" if entry.gone else "refused" if entry.refused else "version"
