"""When a member of a group leaves its partitions to others, and when it comes back."""

from __future__ import annotations

from streams.kafka.handover import Handover

PATIENCE_S = 30.0


class Member:
    """A member of a group with some others, and a clock of its own."""

    def __init__(self, others: int | None = 1) -> None:
        self.others, self.now = others, 1000.0
        self.handover = Handover(lambda: self.others, PATIENCE_S, lambda: self.now)

    def fails(self, after_s: float) -> bool:
        """Let it fail once more; leave the group if it should. Return whether it did."""
        self.now += after_s
        leaves = self.handover.fail()
        if leaves:
            self.handover.leave()
        return leaves


def test_it_leaves_once_it_has_failed_for_long_and_others_are_there() -> None:
    one = Member()
    assert [one.fails(10) for _ in range(4)] == [False, False, False, True]
    assert one.handover.has_left


def test_a_success_begins_the_time_anew() -> None:
    one = Member()
    assert not any(one.fails(10) for _ in range(3))
    one.handover.succeed()
    assert not any(one.fails(10) for _ in range(3))


def test_a_failure_of_long_ago_says_nothing() -> None:
    one = Member()
    assert not one.fails(0)
    assert not one.fails(301)
    assert one.fails(30)


def test_it_stays_while_no_other_could_take_over() -> None:
    one = Member(others=0)
    assert not any(one.fails(10) for _ in range(20))
    one.others = None
    assert not any(one.fails(10) for _ in range(20))
    one.others = 1
    assert one.fails(10)


def test_it_comes_back_after_a_while_and_leaves_at_the_first_failure() -> None:
    one = Member()
    while not one.fails(10):
        pass
    one.now += 149
    assert not one.handover.comes_back()
    one.now += 1
    assert one.handover.comes_back()
    assert not one.handover.has_left
    assert one.fails(10)


def test_it_comes_back_as_soon_as_the_group_is_empty() -> None:
    one = Member()
    while not one.fails(10):
        pass
    one.others = 0
    assert not one.handover.comes_back(), "they are not counted all the time"
    one.now += 10
    assert one.handover.comes_back()


def test_the_others_are_not_counted_at_each_failure() -> None:
    counted = []

    def others() -> int:
        counted.append(one.now)
        return 0

    one = Member()
    one.handover = Handover(others, PATIENCE_S, lambda: one.now)
    assert not any(one.fails(0.5) for _ in range(200))
    assert 0 < len(counted) <= 8
