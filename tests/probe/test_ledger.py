"""The ledger: one number, one meaning, through restarts and torn lines."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from probe.ledger import Ledger


def ledger(path: Path) -> contextlib.closing[Ledger]:
    return contextlib.closing(Ledger.open(path))


def test_a_number_keeps_its_meaning_over_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "run" / "ledger"
    with ledger(path) as numbers:
        first = numbers.number_of("rule", "a", [{"kind": "NetworkPolicy"}])
        assert numbers.number_of("rule", "b") == first + 1
        assert numbers.number_of("rule", "a") == first
        assert numbers.number_of("endpoint", "a") == 1
    with ledger(path) as numbers:
        assert numbers.number_of("rule", "a") == first
        assert numbers.meaning("rule", first) == [{"kind": "NetworkPolicy"}]
        assert numbers.meaning("rule", first + 1) is None
        assert numbers.number_of("rule", "c") == first + 2


def test_what_is_not_flushed_was_never_in_use(tmp_path: Path) -> None:
    with ledger(tmp_path / "ledger") as killed:
        killed.number_of("set", "a")
        killed.flush()
        killed.number_of("set", "b")
        with ledger(tmp_path / "ledger") as following:
            assert following.number_of("set", "c") == 2


@pytest.mark.parametrize("torn", range(1, 22))
def test_a_torn_last_line_is_dropped(tmp_path: Path, torn: int) -> None:
    path = tmp_path / "ledger"
    with ledger(path) as numbers:
        numbers.number_of("row", "kept")
        numbers.number_of("row", "torn")
    path.write_bytes(path.read_bytes()[:-torn])
    with ledger(path) as numbers:
        assert numbers.number_of("row", "new") == 2
    with ledger(path) as numbers:
        assert (numbers.number_of("row", "kept"), numbers.number_of("row", "new")) == (1, 2)


def test_numbers_begin_above_what_the_maps_refer_to(tmp_path: Path) -> None:
    with ledger(tmp_path / "ledger") as numbers:
        numbers.reserve("identity", 41)
        assert numbers.number_of("identity", "a") == 42
        numbers.reserve("identity", 7)
        assert numbers.number_of("identity", "b") == 43
