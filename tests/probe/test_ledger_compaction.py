"""The ledger forgets what nothing refers to, never too early, and never gives a number out twice."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from probe.ledger import Ledger
from probe.ledger_compaction import LedgerCompaction, References
from tests.waiting import until


def meaning(number: int) -> list[dict[str, str]]:
    """Return the meaning of a rule number."""
    return [{"kind": "NetworkPolicy", "namespace": "shop", "name": f"p{number}"}]


@dataclass
class _Ring:
    consumer_number: int = 0
    producer_number: int = 0


@dataclass
class _Maps:
    """What refers to numbers."""

    used: dict[str, set[int]] = field(default_factory=dict)

    def references(self) -> References:
        return self.used


@dataclass
class _Node:
    ledger: Ledger
    ring: _Ring = field(default_factory=_Ring)
    maps: _Maps = field(default_factory=_Maps)
    forgotten: set[int] = field(default_factory=set)
    now: float = 0.0

    def __post_init__(self) -> None:
        self.compaction = LedgerCompaction(self.ledger, self.ring, lambda: self.now, grown=10)

    def step(self, seconds: float = 0.0) -> None:
        self.now += seconds
        self.compaction.step([self.maps], lambda numbers: self.forgotten.update(numbers["rule"]))


@pytest.fixture
def node(tmp_path: Path) -> Iterator[_Node]:
    with contextlib.closing(Ledger.open(tmp_path / "ledger")) as ledger:
        for number in range(1, 21):
            assert ledger.number_of("rule", f"r{number}", meaning(number)) == number
        yield _Node(ledger)


def known(ledger: Ledger) -> set[int]:
    return ledger.numbers()["rule"]


def test_what_is_in_use_is_kept_and_the_rest_forgotten(node: _Node) -> None:
    node.maps.used = {"rule": {3, 4}}
    node.step()
    node.step(600)
    node.step()
    # The highest is kept, because the next number is counted from it.
    assert known(node.ledger) == {3, 4, 20}
    assert node.forgotten == {*range(1, 20)} - {3, 4} | {20}
    assert node.ledger.meaning("rule", 3) == meaning(3)
    assert node.ledger.meaning("rule", 5) is None


def test_a_small_ledger_is_left_alone(tmp_path: Path) -> None:
    with contextlib.closing(Ledger.open(tmp_path / "ledger")) as ledger:
        small = _Node(ledger)
        for number in range(10):
            ledger.number_of("rule", str(number))
        for _ in range(4):
            small.step(600)
        assert len(ledger) == 10


def test_what_comes_into_use_again_meanwhile_is_kept(node: _Node) -> None:
    node.step()
    node.maps.used = {"rule": {7}}
    node.step(600)
    node.maps.used = {"rule": {8}}
    node.step()
    # 7 was in use at the second look: a verdict with it may be behind the end of the ring that was noted then.
    assert known(node.ledger) == {7, 8, 20}


def test_nothing_is_forgotten_before_ten_minutes_are_over(node: _Node) -> None:
    node.step()
    node.step(599)
    node.step()
    assert len(node.ledger) == 20


def test_nothing_is_forgotten_before_the_ring_is_read(node: _Node) -> None:
    node.step()
    node.ring.producer_number = 100
    node.step(600)
    node.ring.consumer_number = 99
    node.step(600)
    assert node.ledger.meaning("rule", 5) == meaning(5)
    node.ring.consumer_number, node.ring.producer_number = 100, 500
    node.step()
    assert known(node.ledger) == {20}


def test_nothing_is_forgotten_before_the_reports_of_connections_are_read(node: _Node) -> None:
    ends = _Ring(producer_number=10)
    node.compaction = LedgerCompaction(node.ledger, node.ring, lambda: node.now, grown=10, ends=ends)
    node.step()
    node.step(600)
    node.step()
    assert len(node.ledger) == 20
    ends.consumer_number = 10
    node.step()
    assert known(node.ledger) == {20}


def test_no_number_is_given_out_twice_not_even_by_the_next_process(node: _Node) -> None:
    node.step()
    node.step(600)
    node.step()
    assert node.ledger.number_of("rule", "r5", meaning(5)) == 21
    node.ledger.flush()
    with contextlib.closing(Ledger.open(node.ledger.path)) as following:
        assert following.numbers()["rule"] == {20, 21}
        assert following.number_of("rule", "r6") == 22
        assert following.meaning("rule", 21) == meaning(5)


def test_a_number_that_was_not_written_yet_is_in_the_new_file(node: _Node) -> None:
    node.ledger.flush()
    assert node.ledger.number_of("set", "late") == 1
    node.ledger.forget({"rule": {1}})
    with contextlib.closing(Ledger.open(node.ledger.path)) as following:
        assert following.number_of("set", "late") == 1


def test_a_disk_that_takes_nothing_does_not_let_memory_grow(node: _Node) -> None:
    node.ledger.path.with_name("ledger.new").mkdir()
    node.step()
    node.step(600)
    node.step()
    assert known(node.ledger) == {20}
    assert "the ledger cannot be written" in (node.ledger.problem or "")
    assert node.ledger.number_of("rule", "r21", meaning(21)) == 21
    assert node.ledger._file._unwritten == []
    node.ledger.path.with_name("ledger.new").rmdir()

    def is_written() -> bool:
        node.ledger.flush()
        return node.ledger.problem is None

    until(is_written)
    with contextlib.closing(Ledger.open(node.ledger.path)) as following:
        assert known(following) == {20, 21}
