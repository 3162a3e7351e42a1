"""A takeover that is killed between its steps: the next probe, with any sizes, goes on from what it finds."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from probe.kernel.generations import generation_name
from tests.kernel.rig import SIZES, Rig
from tests.kernel.stepping import Killed
from tests.kernel.takeover import Traffic, make_pods, restart
from tests.waiting import until

pytestmark = pytest.mark.kernel


def kill() -> bool:
    raise Killed


def before_install(rig: Rig) -> None:
    kill()


def before_the_first_move(rig: Rig) -> None:
    def killed(index: int, *, bound: bool = False) -> bool:
        raise Killed

    rig.attachments.attach = killed  # type: ignore[method-assign]
    rig.apply()


def after_the_first_move(rig: Rig) -> None:
    attach = rig.attachments.attach

    def once(index: int, *, bound: bool = False) -> bool:
        attach(index, bound=bound)
        raise Killed

    rig.attachments.attach = once  # type: ignore[method-assign]
    rig.apply()


def before_the_rest_is_moved(rig: Rig) -> None:
    rig.attachments.move_rest = kill  # type: ignore[method-assign, assignment]
    rig.apply()


def before_the_windows_are_closed(rig: Rig) -> None:
    rig.generation.retire = kill  # type: ignore[method-assign, assignment]
    rig.apply()


def before_the_old_ring_is_read(rig: Rig) -> None:
    rig.apply()
    kill()


STEPS: list[tuple[Callable[[Rig], None], dict[str, int]]] = [
    (before_install, {"POLICY_ENTRIES": 512}),
    (before_the_first_move, {"CONNECTIONS": 1 << 15}),
    (after_the_first_move, {"POLICY_ENTRIES": 512}),
    (before_the_rest_is_moved, {"CONNECTIONS": 1 << 17}),
    (before_the_windows_are_closed, {}),
    (before_the_old_ring_is_read, {"POLICY_ENTRIES": 512}),
]


@pytest.mark.timeout(900)
@pytest.mark.parametrize(("own", "family", "steps"), [("tcx", 6, STEPS), ("clsact", 4, STEPS[2:5])], indirect=["own"])
def test_a_killed_takeover_breaks_nothing_and_loses_no_verdict(
    own: Rig, family: int, steps: Sequence[tuple[Callable[[Rig], None], dict[str, int]]]
) -> None:
    client, server = make_pods(own)
    traffic = Traffic(client, server, family)
    try:
        for step, sizes in steps:
            restart(own, **sizes)
            with pytest.raises(Killed):
                step(own)
            asked = traffic.answered
            until(lambda asked=asked: traffic.answered > asked + 5)  # type: ignore[misc]
        restart(own)
        own.apply()
        asked = traffic.answered
        until(lambda: traffic.answered > asked + 5)
    finally:
        traffic.stop()
    own.windows.rotate()
    own.windows.rotate()
    traffic.check(own.drain())
    assert {path.name for path in own.pins.iterdir()} == {"links", generation_name(SIZES)}
