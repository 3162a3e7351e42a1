"""The clock of the alerts: it does not follow jumps that do not last."""

from __future__ import annotations

from streams.alerts.steady_clock import SteadyClock


class Machine:
    def __init__(self) -> None:
        self.wall, self.monotonic = 1_800_000_000.0, 50.0
        self.clock = SteadyClock(lambda: self.wall, lambda: self.monotonic)

    def wait(self, seconds: float) -> float:
        self.wall += seconds
        self.monotonic += seconds
        return self.clock()


def test_a_jump_that_does_not_last_is_not_followed() -> None:
    for jump in (3600, -3600):
        machine = Machine()
        before = machine.wait(1)
        machine.wall += jump
        assert machine.wait(1) == before + 1
        assert machine.wait(30) == before + 31
        machine.wall -= jump
        assert machine.wait(40) == before + 71 == machine.wall


def test_a_jump_that_lasts_is_followed() -> None:
    machine = Machine()
    machine.wall += 3600
    machine.wait(1)
    machine.wait(30)
    assert machine.wait(31) == machine.wall


def test_a_clock_that_jumps_about_is_not_followed() -> None:
    machine = Machine()
    before = machine.wait(0)
    for number in range(20):
        machine.wall += 3600 if number % 2 == 0 else -7200
        machine.wait(10)
    assert machine.clock() == before + 200


def test_a_clock_that_is_corrected_in_small_steps_is_followed() -> None:
    machine = Machine()
    for _ in range(100):
        machine.wall += 0.5
        assert machine.wait(1) == machine.wall
