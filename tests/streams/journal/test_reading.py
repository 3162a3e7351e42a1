"""The journal as commands read it: how reading ends where Kafka sends less than there was."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pytest

from enrich.model import Namespace
from enrich.wire.journal import JournalEntry, decode_entry, encode_entry, raw_state
from enrich.wire.topics import topics
from streams.journal.reading import read_journal, within_memory
from streams.kafka.connection import ReadError
from streams.kafka.records import Record

TOPICS = topics("p", 4)


def record(offset: int) -> Record:
    state = raw_state(Namespace("shop", "u1", {"number": str(offset)}))
    entry = JournalEntry(cluster="c1", kind="Namespace", name="shop", uid="u1", seen_ns=offset + 1, object=state)
    return Record(0, offset, entry.key, encode_entry(entry), 0)


class _Reader:
    """A reader of one partition with ten records. Retention removes those before ``first_later`` while it reads."""

    def __init__(self, *reads: list[Record], first_later: int = 0) -> None:
        self._reads = iter(reads)
        self._firsts = iter([0])
        self._first_later = first_later
        self.is_closed = False

    def bounds(self) -> dict[int, tuple[int, int]]:
        return {0: (next(self._firsts, self._first_later), 10)}

    def start(self, offsets: Mapping[int, int]) -> None:
        assert offsets == {0: 0}

    def take(self, _most: int, _wait_s: float) -> list[Record]:
        return next(self._reads, [])

    def ended(self) -> frozenset[int]:
        return frozenset()

    def close(self) -> None:
        self.is_closed = True


def read(monkeypatch: pytest.MonkeyPatch, reader: _Reader) -> Iterator[JournalEntry]:
    monkeypatch.setattr("streams.journal.reading.TopicReader", lambda *_: reader)
    return read_journal({}, TOPICS)


def test_records_that_retention_removes_meanwhile_are_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    reader = _Reader([record(0), record(1)], first_later=10)
    assert [one.seen_ns for one in read(monkeypatch, reader)] == [1, 2]
    assert reader.is_closed


def test_an_end_that_does_not_come_is_an_error_that_names_the_topic(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streams.journal.reading._PATIENCE_S", 0.0)
    reader = _Reader([record(0)])
    with pytest.raises(ReadError, match=r"^p\.journal cannot be read to its end: Kafka has sent nothing for 0 s$"):
        list(read(monkeypatch, reader))
    assert reader.is_closed


def test_more_than_fits_in_memory_is_refused() -> None:
    entries = [decode_entry(one.value, one.key) for one in map(record, range(10))]
    assert list(within_memory(iter(entries), "p.journal")) == entries
    with pytest.raises(ReadError, match=r"p\.journal has more versions than fit in memory"):
        list(within_memory(iter(entries), "p.journal", 10_000))
