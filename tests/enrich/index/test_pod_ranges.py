"""The ranges in which pods have addresses: which are remembered, and what is said of the others."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from enrich.index.changes import ANYBODY, Changes
from enrich.index.cluster import Change, Cluster
from enrich.index.intervals import SECOND, neighbourhood
from enrich.index.pod_ranges import PodRanges
from enrich.model import Pod
from enrich.render.fragments import EndRenderer, LabelChoice
from tests.enrich.index.test_ended_intervals import NOW, Clock
from tests.enrich.render.test_no_stale_name import History, Site

OUTSIDE = "203.0.113.9"


def test_ranges_without_pods_are_forgotten_oldest_first_and_those_in_use_never() -> None:
    ranges = PodRanges(Changes(), max_ranges=4)
    for number in range(3):
        ranges.enter(f"10.0.{number}.1")
    ranges.leave("10.0.1.1", 500)
    ranges.leave("10.0.0.1", 600)
    assert all(ranges.near_pods(f"10.0.{number}.9") for number in range(3))
    ranges.enter("10.0.0.7")
    for number in range(3, 9):
        ranges.enter(f"10.0.{number}.1")
    assert not ranges.near_pods("10.0.1.9")
    assert all(ranges.near_pods(f"10.0.{number}.9") for number in range(9) if number != 1)
    assert ranges.known_since_ns == 500


def test_a_flood_of_ranges_is_bounded() -> None:
    ranges = PodRanges(Changes(), max_ranges=100)
    ranges.enter("10.0.0.1")
    for number in range(10_000):
        ranges.enter(f"fd00:0:0:{number:x}::1")
        ranges.leave(f"fd00:0:0:{number:x}::1", number)
        assert len(ranges) <= 100
    assert ranges.near_pods("10.0.0.2")


def test_a_range_that_comes_again_and_one_that_is_forgotten_touch_who_is_nobody() -> None:
    changes = Changes()
    ranges, follower = PodRanges(changes, max_ranges=1), changes.follow()

    def touched() -> bool:
        changes.publish()
        return ANYBODY in (follower.take() or ())

    ranges.enter("10.0.0.1")
    assert touched()
    ranges.enter("10.0.0.2")
    ranges.leave("10.0.0.1", 1)
    ranges.leave("10.0.0.2", 2)
    ranges.enter("10.0.0.3")
    assert not touched()
    ranges.enter("10.0.1.1")
    assert touched()


def test_before_the_forgotten_ranges_were_without_pods_nobody_is_said_to_be_outside() -> None:
    clock = Clock()
    cluster = Cluster(600.0, 1.0, clock)
    cluster.addresses.ranges = PodRanges(cluster.changes, max_ranges=1)
    cluster.addresses.set_complete_since(0)
    pods = [Pod("shop", f"p{number}", f"u{number}", {}, (f"10.0.{number}.1",), "n1") for number in range(2)]
    cluster.apply([Change("set", pods[0])])
    cluster.apply([Change("delete", pods[0])])
    clock.now += 700 * SECOND
    cluster.apply([])
    left = clock.now
    cluster.apply([Change("set", pods[1])])
    ends = EndRenderer(cluster, LabelChoice.of(()))
    clock.now += 10 * SECOND
    for ip in (OUTSIDE, "10.0.0.1"):
        assert ends.peer(ip, NOW, "n1").end.end.ambiguous
        answer = ends.peer(ip, left - 1, "n1")
        assert (answer.end.end.ambiguous, answer.until_ns, answer.settled) == (True, left, True)
        answer = ends.peer(ip, left, "n1")
        assert (answer.end.end.ambiguous, answer.end.end.instance, answer.settled) == (False, ip, True)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, (1 << 32) - 1))
def test_the_ranges_in_use_are_those_of_the_addresses_in_memory(seed: int) -> None:
    site = Site()
    addresses = site.cluster.addresses
    for step, taken in History(seed, lambda: site.now).steps(60):
        if step != "verdicts":
            site.take(step, taken)
            held = {*addresses._watched, *addresses._exact}
            assert addresses.ranges._in_use == Counter(neighbourhood(ip) for ip in held)
