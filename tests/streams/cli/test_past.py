"""The timeline that commands make of a journal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec
import pytest

from enrich.history.timeline import Scope, Timeline
from enrich.wire.journal import GAP, REPEAT_NS, JournalEntry
from streams.cli import past
from streams.cli.past import _Unreadable, timeline_of
from streams.kafka.connection import ReadError
from streams.kafka.records import Record
from tests.enrich.history.journals import CLUSTER, at, begin, entry, policy

DB = policy("db", {"podSelector": {}})
SHOP = Scope("shop")


def made(entries: Sequence[JournalEntry], now_ns: int) -> Timeline:
    found = timeline_of(entries, now_ns)
    assert found is not None
    return found


def test_a_journal_that_nobody_writes_any_more_ends_with_its_last_entry() -> None:
    entries = [begin(), entry(DB, 10)]
    assert made(entries, at(10 + 399)).unknown(SHOP, at(11), at(12)) == ""
    assert "the journal ends at" in made(entries, at(10 + 401)).unknown(SHOP, at(11), at(12))
    assert timeline_of([], at(0)) is None


def test_a_journal_whose_begin_was_removed_ends_too() -> None:
    later = JournalEntry(cluster=CLUSTER, kind=GAP, seen_ns=at(10) + REPEAT_NS)
    found = made([later, entry(DB, 10)], at(10 + 401)).gaps()
    assert any("the journal ends at" in one.text for one in found)


def test_an_object_is_not_known_after_a_record_that_cannot_be_read() -> None:
    unreadable = _Unreadable()

    def entries() -> Iterator[JournalEntry]:
        unreadable.add(Record(0, 1, b"c1/NetworkPolicy/shop/db", b"{", 0), "before the first")
        yield begin()
        yield entry(DB, 10)
        for key in (b"c1/NetworkPolicy/shop/db", b"c2/NetworkPolicy/shop/db", b"c1/NetworkPolicy/A B/db", b"", b"///"):
            unreadable.add(Record(0, 2, key, b"{", 0), "not an entry")
        yield entry(policy("other", {"podSelector": {}}, "data"), 20)
        yield entry(DB, 30, version="7")
        unreadable.add(Record(0, 3, b"c1/NetworkPolicy/data/other", b"{", 0), "at the end")

    found = made(list(unreadable.placed(entries())), at(40))
    assert found.cluster == CLUSTER
    assert "cannot be read" in found.unknown(SHOP, at(15), at(15))
    assert found.unknown(SHOP, at(30), at(99)) == ""
    assert "cannot be read" in found.unknown(Scope("data"), at(30), at(30))
    assert unreadable.notes() == ["7 records of the journal cannot be read: before the first"]
    assert unreadable.lost_ns == []


def test_nothing_is_known_after_a_batch_that_cannot_be_read() -> None:
    unreadable = _Unreadable()

    def entries() -> Iterator[JournalEntry]:
        yield begin()
        yield entry(DB, 10)
        unreadable.add(Record(0, 2, b"", b"", 0, unread="a wrong checksum"), "a wrong checksum")
        yield msgspec.structs.replace(entry(DB, 20), namespace="data")

    assert len(list(unreadable.placed(entries()))) == 3
    assert unreadable.lost_ns == [at(10)]


def test_more_unreadable_records_than_fit_in_memory_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(past, "_MAX_WAITING", 10)
    unreadable = _Unreadable()

    def entries() -> Iterator[JournalEntry]:
        yield begin()
        for number in range(1000):
            unreadable.add(Record(0, number, f"c1/Node//n{number}".encode(), b"{", 0), "not an entry")
        yield entry(DB, 20)

    with pytest.raises(ReadError, match="in a row that cannot be read"):
        list(unreadable.placed(entries()))
