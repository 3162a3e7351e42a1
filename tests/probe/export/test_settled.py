"""What became of batches is counted by the numbers of their ring, and a hole in the numbers shows."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from msgspec.structs import replace

from enrich.wire.batch import VERDICT, Header
from enrich.wire.tally import SpoolTally
from probe.export.settled import SettledNumbers


def header(first: int, verdicts: int, ring: str = "r1", **fields: Any) -> Header:
    return Header(v=1, cluster="c1", node="n1", ring=ring, first=first, verdicts=verdicts,
                  verdict_bytes=VERDICT.itemsize, clock=0, **fields)  # fmt: skip


def balance(tally: SpoolTally) -> int:
    """How many numbers are nowhere."""
    return tally.next - tally.begin - tally.published - sum(tally.removed.values())


def test_each_number_is_published_or_removed_for_a_reason() -> None:
    settled = SettledNumbers()
    assert settled.of("r1") is None
    settled.count(header(500, 100), refused=False)
    settled.count(header(600, 10), refused=True)
    settled.count(header(612, 2, kept=[(612, 1), (615, 1)], removed=("spool_full", 610, 10)), refused=False)
    settled.count(header(640, 0, removed=("spool_full", 620, 20)), refused=False)
    settled.count(header(640, 0), refused=False)
    found = settled.of("r1")
    assert found == SpoolTally(begin=500, next=640, published=102, removed={"refused": 10, "spool_full": 28})
    assert balance(found) == 0


def test_a_batch_that_vanished_from_the_spool_leaves_a_hole() -> None:
    settled = SettledNumbers()
    settled.count(header(0, 100), refused=False)
    settled.count(header(130, 10), refused=False)
    found = settled.of("r1")
    assert found is not None
    assert balance(found) == 30


def test_what_waits_is_counted_when_it_is_appended() -> None:
    settled = SettledNumbers()
    for first in (0, 100, 200):
        settled.note_appended(header(first, 100))
    settled.note_appended(header(300, 0))  # a heartbeat
    assert settled.of("r1") is None
    settled.count(header(0, 100), refused=False)
    assert settled.of("r1") == SpoolTally(begin=0, next=100, published=100, appended=300, waiting=200)
    # A full spool has taken 60 of them away. They wait until Kafka has the rest of their batch.
    settled.count(header(100, 40, kept=[(100, 40)], removed=("spool_full", 100, 100)), refused=False)
    found = SpoolTally(begin=0, next=200, published=140, removed={"spool_full": 60}, appended=300, waiting=100)
    assert settled.of("r1") == found
    settled.note_appended(header(300, 5))
    assert settled.of("r1") == replace(found, appended=305, waiting=105)
    settled.count(header(200, 100), refused=True)
    settled.count(header(300, 5), refused=False)
    removed = {"spool_full": 60, "refused": 100}
    assert settled.of("r1") == SpoolTally(begin=0, next=305, published=145, removed=removed, appended=305, waiting=0)


def test_what_an_earlier_probe_has_left_in_the_spool_is_not_counted_as_nothing() -> None:
    """The numbers 0 to 99 were appended by an earlier probe, in two batches."""
    settled = SettledNumbers()
    settled.note_appended(header(100, 10))
    settled.count(header(0, 50), refused=False)
    assert settled.of("r1") == SpoolTally(begin=0, next=50, published=50)
    settled.count(header(50, 50), refused=False)
    assert settled.of("r1") == SpoolTally(begin=0, next=100, published=100, appended=110, waiting=10)


def test_an_answer_may_come_before_the_batch_is_noted() -> None:
    settled = SettledNumbers()
    settled.count(header(0, 10), refused=False)
    settled.note_appended(header(0, 10))
    assert settled.of("r1") == SpoolTally(begin=0, next=10, published=10, appended=10)


def test_a_batch_that_vanished_while_it_waited_is_neither_waiting_nor_published() -> None:
    settled = SettledNumbers()
    for first in (0, 10, 20, 30):
        settled.note_appended(header(first, 10))
    settled.count(header(0, 10), refused=False)
    settled.count(header(20, 10), refused=False)
    found = settled.of("r1")
    assert found == SpoolTally(begin=0, next=30, published=20, appended=40, waiting=10)


def test_behind_a_long_backlog_the_count_begins_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("probe.export.settled._MAX_WAITING", 2)
    settled = SettledNumbers()
    settled.count(header(0, 10), refused=False)
    for first in (10, 20, 30):
        settled.note_appended(header(first, 10))
    assert settled.of("r1") == SpoolTally(begin=0, next=10, published=10)
    settled.count(header(10, 10), refused=False)
    settled.count(header(20, 10), refused=False)
    assert settled.of("r1") == SpoolTally(begin=0, next=30, published=30, appended=40, waiting=10)


def test_the_rings_are_counted_apart_and_the_oldest_is_forgotten() -> None:
    settled = SettledNumbers()
    for number in range(17):
        settled.count(header(number, 1, ring=f"r{number}"), refused=False)
    assert settled.of("r0") is None
    assert settled.of("r16") == SpoolTally(begin=16, next=17, published=1)


def test_a_reader_finds_a_tally_while_the_next_batch_is_counted() -> None:
    settled = SettledNumbers()
    settled.count(header(0, 10), refused=False)
    found: list[SpoolTally | None] = []

    class Batch(SimpleNamespace):
        @property
        def verdicts(self) -> int:
            """Another thread reads whenever this is looked at."""
            found.append(settled.of("r1"))
            return 5

    settled.count(Batch(ring="r1", covered=header(10, 5).covered), refused=False)  # type: ignore[arg-type]
    assert found
    assert set(map(bool, found)) == {True}
    assert settled.of("r1") == SpoolTally(begin=0, next=15, published=15)
