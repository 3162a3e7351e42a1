"""The ledger: a number keeps its one meaning, through restarts and torn lines."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from probe.ledger import Ledger

WEB = {"kind": "NetworkPolicy", "namespace": "shop", "name": "web"}


def opened(path: Path) -> contextlib.closing[Ledger]:
    """Open a ledger, and close it at the end of the block."""
    return contextlib.closing(Ledger.open(path))


def test_a_number_keeps_its_meaning_over_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "run" / "ledger"
    with opened(path) as ledger:
        first = ledger.number_of("rule", "a", [WEB])
        assert ledger.number_of("rule", "b") == first + 1
        assert ledger.number_of("rule", "a") == first
        assert ledger.number_of("endpoint", "a") == 1
    with opened(path) as ledger:
        assert ledger.number_of("rule", "a") == first
        assert ledger.meaning("rule", first) == [WEB]
        assert ledger.meaning("rule", first + 1) is None
        assert ledger.number_of("rule", "c") == first + 2


def test_a_kind_of_another_version_is_ignored(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    path.write_text('["row",7,"a",null]\n["rule",3,"b",null]\n')
    with opened(path) as ledger:
        assert ledger.number_of("rule", "b") == 3
        assert ledger.number_of("port_list", "a") == 1


def test_a_number_that_was_not_flushed_is_given_out_again(tmp_path: Path) -> None:
    with opened(tmp_path / "ledger") as killed:
        killed.number_of("set", "a")
        killed.flush()
        killed.number_of("set", "b")
        with opened(tmp_path / "ledger") as following:
            assert following.number_of("set", "c") == 2


@pytest.mark.parametrize("torn", range(1, 22))
def test_a_torn_last_line_is_dropped(tmp_path: Path, torn: int) -> None:
    path = tmp_path / "ledger"
    with opened(path) as ledger:
        ledger.number_of("set", "kept")
        ledger.number_of("set", "torn")
    path.write_bytes(path.read_bytes()[:-torn])
    with opened(path) as ledger:
        assert ledger.number_of("set", "new") == 2
    with opened(path) as ledger:
        assert (ledger.number_of("set", "kept"), ledger.number_of("set", "new")) == (1, 2)


def test_numbers_start_above_those_that_are_reserved(tmp_path: Path) -> None:
    with opened(tmp_path / "ledger") as ledger:
        ledger.reserve("identity", 41)
        assert ledger.number_of("identity", "a") == 42
        ledger.reserve("identity", 7)
        assert ledger.number_of("identity", "b") == 43
