"""A window of time in which pairs were not counted, or not all."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from enrich.history.counted_time import CountedTime, Stretch
from enrich.wire.pair import HOUR_NS
from enrich.wire.pair_coverage import CountedSpan, Coverage
from streams.cli.advice_window import CannotSayError, Window

HOUR = 494_000
BEGIN_S = HOUR * 3600
ALWAYS = (CountedSpan(0, 0, 10, 0, BEGIN_S + 100_000),)


class Reading:
    """Pairs as read from Kafka, which are complete from an hour on."""

    unreadable = 0
    has_losses = False
    late = 0

    def __init__(self, complete_since_hour: int, *pairs: Any, spans: Any = ALWAYS) -> None:
        self.complete_since_hour = complete_since_hour
        self._pairs = pairs
        self.counted = CountedTime()
        self.counted.take(Coverage(cluster="c1", segment="a", partitions=1, spans=spans, missed=7,
                                   missed_since=BEGIN_S, missed_until=BEGIN_S + 10))  # fmt: skip

    def __iter__(self) -> Any:
        return iter(self._pairs)


def window(reading: Any) -> Window:
    """Return the window of two hours and a half."""
    past: Any = SimpleNamespace(timeline=SimpleNamespace(cluster="c1"))
    return Window(HOUR * HOUR_NS, (HOUR + 2) * HOUR_NS + HOUR_NS // 2, past, reading)


def test_a_window_in_which_nothing_was_counted_has_no_answer() -> None:
    with pytest.raises(CannotSayError, match="WEIR_PAIRS=1"):
        list(window(Reading(HOUR + 3)).pairs())


def test_a_window_that_was_counted_from_its_beginning_on_has_no_losses() -> None:
    whole = window(Reading(HOUR))
    assert list(whole.pairs()) == []
    assert (whole.complete_ns, whole.has_losses) == (0, False)


def test_a_window_of_which_some_hours_were_counted_has_an_answer() -> None:
    quiet = window(Reading(HOUR + 1))
    assert list(quiet.pairs()) == []
    assert quiet.complete_ns == (HOUR + 1) * HOUR_NS
    assert quiet.has_losses, "nobody counted in its first hour"

    pair = SimpleNamespace(first_ns=HOUR * HOUR_NS, last_ns=HOUR * HOUR_NS + 1)
    first_hours = window(Reading(HOUR + 3, pair))
    assert list(first_hours.pairs()) == [pair]
    assert first_hours.complete_ns == first_hours.until_ns


def test_a_hole_in_the_window_is_told_instead_of_taken_for_silence() -> None:
    spans = (CountedSpan(0, 0, 10, BEGIN_S, BEGIN_S + 600), CountedSpan(0, 15, 20, BEGIN_S + 1200, BEGIN_S + 100_000))
    holed = window(Reading(HOUR, spans=spans))

    assert list(holed.pairs()) == []

    assert holed.holes == [Stretch(BEGIN_S + 600, BEGIN_S + 1200)]
    assert holed.complete_ns == (BEGIN_S + 1200) * 10**9
    assert holed.notes == [
        "pairs were not counted, or not all, from 2026-05-10T08:10:00Z to 2026-05-10T08:20:00Z",
        "7 verdicts from 2026-05-10T08:00:00Z to 2026-05-10T08:00:10Z came over a day late, and are in no pair",
    ]


def test_a_window_in_which_counting_was_off_has_no_answer_although_the_topic_is_older() -> None:
    off = (CountedSpan(0, 5, 10, BEGIN_S - 5000, BEGIN_S - 100),)

    with pytest.raises(CannotSayError, match="WEIR_PAIRS=1"):
        list(window(Reading(HOUR, spans=off)).pairs())


def test_a_window_into_which_counting_begins_is_complete_from_there_on() -> None:
    begun = window(Reading(HOUR, spans=(CountedSpan(0, 5, 10, BEGIN_S + 600, BEGIN_S + 100_000),)))

    assert list(begun.pairs()) == []

    assert begun.complete_ns == (BEGIN_S + 600) * 10**9
    assert begun.holes == []
    assert begun.has_losses
    assert begun.notes[0] == "the pairs are complete from 2026-05-10T08:10:00Z on, and not before"
