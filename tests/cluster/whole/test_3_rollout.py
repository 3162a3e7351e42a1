"""A test of a rolling update of the probe while pods keep connecting."""

from __future__ import annotations

import pytest

from tests.cluster.whole.real import (
    SYSTEM,
    Real,
    missing_numbers,
    numbers,
    until,
)
from tests.cluster.whole.story import Loops, Pod

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(5400), pytest.mark.usefixtures("guarded")]


def test_a_rolling_update_under_traffic_keeps_every_verdict(real: Real, web: list[Pod], stranger: Pod) -> None:
    loops = Loops(real, web, stranger)
    before = loops.counts()
    real.kubectl("-n", SYSTEM, "rollout", "restart", "ds/weir-probe")
    real.wait_rolled_out("ds/weir-probe")
    loops.assert_undisturbed_since(before)
    loops.end()
    so_far = numbers(real.records())
    missing: list[str] = []

    def complete() -> bool:
        missing[:] = missing_numbers(numbers(real.records()), so_far)
        return not missing

    until("every record up to here", complete, describe=lambda: missing)
    assert not [r for r in real.records("status") if r.get("lost")]
