"""How often a server is asked whose lists succeed and whose watches fail."""

from __future__ import annotations

import pytest

from enrich.sources.backoff import Backoff, Pace
from tests.clock import Clock


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr("enrich.sources.backoff.time.monotonic", made)
    return made


def test_the_waits_double_up_to_half_a_minute_and_differ() -> None:
    backoff = Backoff()
    waits = [backoff.failed() for _ in range(40)]
    limits = [min(0.5 * 2**n, 30.0) for n in range(40)]
    assert all(limit / 2 <= wait <= limit for wait, limit in zip(waits, limits, strict=True))
    assert len(set(waits[10:])) > 20, "the clients of a server that returns do not all come at once"
    backoff.reset()
    assert backoff.failed() <= 0.5


def test_the_server_may_ask_for_longer_but_not_for_ever() -> None:
    assert 7.0 <= Backoff().failed(7.0) <= 8.4
    assert 60.0 <= Backoff().failed(1e9) <= 72.0


def attempts(clock: Clock, pace: Pace, seconds: float, *, list_next: bool, stream_s: float, brought: bool) -> int:
    """How many attempts are made in some time; each takes 10 ms before its stream brings changes."""
    until, count = clock.now + seconds, 0
    while clock.now < until:
        pace.begin()
        clock.now += 0.01
        pace.streaming()
        clock.now += stream_s
        if brought:
            pace.brought()
        clock.now += pace.end(0.0, failed=False, list_next=list_next)
        count += 1
    return count


@pytest.mark.parametrize("stream_s", [0.0, 2.0, 20.0])
@pytest.mark.parametrize("brought", [False, True])
def test_lists_that_no_lasting_stream_follows_become_few(clock: Clock, stream_s: float, *, brought: bool) -> None:
    pace = Pace()
    attempts(clock, pace, 300, list_next=True, stream_s=stream_s, brought=brought)
    assert attempts(clock, pace, 600, list_next=True, stream_s=stream_s, brought=brought) <= 41
    assert pace.lists_in_vain


def test_streams_that_end_at_once_become_few_and_are_a_problem(clock: Clock) -> None:
    pace = Pace()
    attempts(clock, pace, 300, list_next=False, stream_s=0.0, brought=False)
    assert pace.ends_at_once
    assert attempts(clock, pace, 600, list_next=False, stream_s=0.0, brought=False) <= 41
    attempts(clock, pace, 1, list_next=False, stream_s=11.0, brought=False)
    assert not pace.ends_at_once


def test_streams_that_last_are_resumed_at_once(clock: Clock) -> None:
    assert attempts(clock, Pace(), 3000, list_next=False, stream_s=300.0, brought=False) == 10


def test_a_list_after_a_stream_that_lasted_does_not_wait_for_long(clock: Clock) -> None:
    pace = Pace()
    attempts(clock, pace, 300, list_next=True, stream_s=0.0, brought=False)
    pace.begin()
    pace.streaming()
    clock.now += 61
    assert pace.end(0.0, failed=False, list_next=True) <= 0.5
