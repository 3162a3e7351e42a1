"""A window of time in which pairs were not counted, or not all."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from enrich.wire.pair import HOUR_NS
from streams.cli.advice_window import CannotSayError, Window

HOUR = 494_000


class Reading:
    """Pairs as read from Kafka, which are complete from an hour on."""

    unreadable = 0
    late = 0

    def __init__(self, complete_since_hour: int, *pairs: Any) -> None:
        self.complete_since_hour = complete_since_hour
        self._pairs = pairs

    def __iter__(self) -> Any:
        return iter(self._pairs)


def window(reading: Any) -> Window:
    """Return the window of two hours and a half."""
    unused: Any = None
    return Window(HOUR * HOUR_NS, (HOUR + 2) * HOUR_NS + HOUR_NS // 2, unused, reading)


def test_a_window_in_which_nothing_was_counted_has_no_answer() -> None:
    with pytest.raises(CannotSayError, match="WEIR_PAIRS=1"):
        list(window(Reading(HOUR + 3)).pairs())


def test_a_window_of_which_some_hours_were_counted_has_an_answer() -> None:
    quiet = window(Reading(HOUR + 1))
    assert list(quiet.pairs()) == []
    assert quiet.complete_ns == (HOUR + 1) * HOUR_NS

    pair = SimpleNamespace(first_ns=HOUR * HOUR_NS, last_ns=HOUR * HOUR_NS + 1)
    first_hours = window(Reading(HOUR + 3, pair))
    assert list(first_hours.pairs()) == [pair]
    assert first_hours.complete_ns == first_hours.until_ns
