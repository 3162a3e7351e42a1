"""When work counts as stalled, and how long the oldest of it has waited."""

from __future__ import annotations

import pytest

from enrich.runtime.stall import Stall
from enrich.runtime.waiting_time import WaitingTime
from tests.clock import Clock


def test_work_is_stalled_when_it_waits_without_progress() -> None:
    clock = Clock()
    stall = Stall(30, clock)
    clock.now += 100
    stall.update(waits=False, progressed=False)
    assert not stall.is_stalled, "nothing waits"
    stall.update(waits=True, progressed=False)
    clock.now += 29
    stall.update(waits=True, progressed=True)
    clock.now += 29
    assert not stall.is_stalled, "some of it was done 29 s ago"
    clock.now += 1
    assert stall.is_stalled
    stall.update(waits=True, progressed=True)
    assert not stall.is_stalled, "at once after progress"
    clock.now += 40
    assert stall.is_stalled, "although nobody has looked meanwhile"
    stall.update(waits=False, progressed=False)
    assert (stall.is_stalled, stall.seconds) == (False, 0)


def test_new_clients_are_due_again_and_again() -> None:
    clock = Clock()
    stall = Stall(10, clock)
    stall.update(waits=True, progressed=False)
    clock.now += 49
    assert not stall.needs_new_clients(lambda: True)
    clock.now += 1
    assert stall.needs_new_clients(lambda: True)
    assert not stall.needs_new_clients(lambda: True)
    clock.now += 50
    assert stall.needs_new_clients(lambda: True)


def test_nothing_is_replaced_during_an_outage_and_little_after_it() -> None:
    clock = Clock()
    stall = Stall(10, clock)
    stall.update(waits=True, progressed=False)
    clock.now += 1000
    assert not stall.needs_new_clients(lambda: False)
    assert not stall.needs_new_clients(lambda: True)
    clock.now += 10
    assert stall.needs_new_clients(lambda: True)
    stall.update(waits=True, progressed=True)
    clock.now += 50
    assert stall.needs_new_clients(lambda: True), "progress has made it a new stall"


@pytest.mark.parametrize("seconds", [0, 30, 49, 50, 51, 59, 1000])
def test_clients_have_the_limit_after_the_last_look_at_an_outage_whenever_that_was(seconds: float) -> None:
    clock = Clock()
    stall = Stall(10, clock)
    stall.update(waits=True, progressed=False)
    for _ in range(int(seconds)):
        clock.now += 1
        stall.postpone()
    left = max(10, 50 - seconds)
    clock.now += left - 1
    assert not stall.needs_new_clients(lambda: True)
    clock.now += 1
    assert stall.needs_new_clients(lambda: True)


def test_nothing_is_postponed_if_nothing_waits() -> None:
    clock = Clock()
    stall = Stall(10, clock)
    stall.postpone()
    stall.update(waits=True, progressed=False)
    clock.now += 50
    assert stall.needs_new_clients(lambda: True)


def test_the_oldest_item_waits_since_the_look_that_saw_it_first() -> None:
    clock = Clock()
    waiting = WaitingTime(clock)
    assert waiting.look(100, 100) == 0
    clock.now += 5
    assert waiting.look(130, 100) == 0, "it came just now"
    clock.now += 5
    assert waiting.look(150, 100) == 5
    assert waiting.look(150, 129) == 5
    assert waiting.look(150, 130) == 0
    clock.now += 7
    assert waiting.look(150, 149) == 7
    assert waiting.look(150, 150) == 0


def test_a_queue_that_begins_again_is_another_one() -> None:
    clock = Clock()
    waiting = WaitingTime(clock)
    waiting.look(100, 50)
    clock.now += 60
    assert waiting.look(3, 0) == 0
    clock.now += 4
    assert waiting.look(3, 0) == 4


def test_a_long_wait_needs_little_memory() -> None:
    clock = Clock()
    waiting = WaitingTime(clock)
    for number in range(100_000):
        clock.now += 1
        waiting.look(number + 1, 0)
    assert len(waiting._looks) <= 512
    assert waiting.look(100_000, 0) == 99_999
