"""The tables of one window, made when a query first asks for them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from enrich.wire.topics import Topics
from streams.cli.sql import journal_rows, pair_rows, verdicts
from streams.cli.sql.arrow import Scanned
from streams.cli.sql.journal_rows import Journal
from streams.cli.sql.pair_rows import Pairs
from streams.cli.sql.raw_batches import RawBatches
from streams.cli.sql.rows import record_batches
from streams.cli.sql.verdicts import VerdictColumns
from streams.kafka.connection import Connection


@dataclass(slots=True)
class Sources:
    """Where the tables come from. Nothing is read before a query needs it."""

    connection: Connection
    topics: Topics
    since_ns: int
    until_ns: int
    late_ns: int | None
    """How much later than the window's end its verdicts may have come to Kafka. None: the window ends with what Kafka
    has now."""
    cluster: str
    reads_all: bool = False
    """Whether some scan of ``verdicts`` has read all of the window."""
    _journal: Journal | None = None
    _verdicts: RawBatches | None = None
    _notes: dict[str, Callable[[], list[str]]] = field(default_factory=dict)

    def tables(self) -> dict[str, Scanned]:
        """Return the tables by their names."""
        return {
            "verdicts": Scanned(verdicts.SCHEMA, self._scan_verdicts),
            "pairs": Scanned(pair_rows.SCHEMA, self._scan_pairs),
            "policies": Scanned(journal_rows.POLICY_SCHEMA, self._scan_policies),
            "profiles": Scanned(journal_rows.PROFILE_SCHEMA, self._scan_profiles),
        }

    def notes(self) -> list[str]:
        """Return what a person must know about the answer, once it was read."""
        return [note for notes in self._notes.values() for note in notes()]

    def _scan_verdicts(self, columns: Sequence[str], earliest_ns: int | None) -> Iterator[Any]:
        if self._verdicts is None:
            until_ns = None if self.late_ns is None else self.until_ns
            self._verdicts = RawBatches(
                self.connection, self.topics.raw.name, self.since_ns, until_ns, self.late_ns or 0, self.cluster
            )
            self._notes["verdicts"] = self._verdicts.notes
        self.reads_all = self.reads_all or earliest_ns is None
        made = VerdictColumns()
        for batch in self._verdicts.since(earliest_ns):
            yield made.record_batch(batch, columns)

    def _scan_pairs(self, columns: Sequence[str], _earliest_ns: int | None) -> Iterator[Any]:
        pairs = Pairs(self.connection, self.topics, self.since_ns, self.until_ns, self.cluster)
        self._notes["pairs"] = pairs.notes
        return record_batches(pairs, pair_rows.SCHEMA, pair_rows.VALUES, columns)

    def _scan_policies(self, columns: Sequence[str], _earliest_ns: int | None) -> Iterator[Any]:
        rows = self._past().policies()
        return record_batches(rows, journal_rows.POLICY_SCHEMA, journal_rows.POLICY_VALUES, columns)

    def _scan_profiles(self, columns: Sequence[str], _earliest_ns: int | None) -> Iterator[Any]:
        rows = self._past().profiles()
        return record_batches(rows, journal_rows.PROFILE_SCHEMA, journal_rows.PROFILE_VALUES, columns)

    def _past(self) -> Journal:
        if self._journal is None:
            self._journal = Journal(self.connection, self.topics, self.since_ns, self.until_ns, self.cluster)
            self._notes["journal"] = self._journal.notes
        return self._journal
