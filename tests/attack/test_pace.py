"""Time limits follow the machine; what it is too slow for is said not to be shown."""

from __future__ import annotations

import pytest

from tests.attack import pace


def test_a_machine_is_never_faster_than_the_one_of_the_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "_datagrams_s", lambda: 0.0001)
    assert pace.measured() == 1


def test_limits_follow_the_slowest_of_the_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    rounds = iter([0.002, 0.04, 0.002])
    monkeypatch.setattr(pace, "_datagrams_s", lambda: next(rounds))
    assert pace.measured() == pytest.approx(20)


def test_a_machine_that_stands_still_is_not_waited_for_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "_datagrams_s", lambda: 9.0)
    assert pace.measured() == 100


def test_it_is_measured_here() -> None:
    assert 1 <= pace.measured() <= 100


def test_what_the_programs_have_forgotten_by_themselves_is_not_counted_as_lost() -> None:
    pace.check_kept("a first fragment", 30, 29)
    with pytest.raises(pace.TooSlowError, match=r"cannot say: this took 41 s, .* keep a first fragment for 30 s"):
        pace.check_kept("a first fragment", 30, 41)
