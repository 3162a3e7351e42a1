"""What became of batches is counted by the numbers of their ring, and a hole in the numbers shows."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

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
