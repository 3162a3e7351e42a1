"""Windows in columns, compared with a naive reference that keeps every record in a list."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from streams.alerts.group_table import GroupTable
from streams.alerts.windows import DistinctValues, WindowClock, WindowSums

WINDOWS = (3, 10, 60, 61, 200)


@dataclass
class Naive:
    """Every record by group: its bucket, its amount and its value."""

    window_s: int
    lateness_s: int
    head: int = -(1 << 40)
    records: dict[int, list[tuple[int, int, int]]] = field(default_factory=lambda: defaultdict(list))

    def __post_init__(self) -> None:
        self.width = max(1, -(-self.window_s // 60))
        self.span = -(-self.window_s // self.width)
        self.late = -(-self.lateness_s // self.width)

    def add(self, group: int, second: int, amount: int, value: int) -> None:
        bucket = second // self.width
        if bucket > self.head - self.span - self.late:
            self.records[group].append((bucket, amount, value))

    def _window(self, group: int) -> list[tuple[int, int, int]]:
        latest = max((bucket for bucket, _, _ in self.records[group]), default=-(1 << 40))
        end = min(max(latest, self.head - self.late), self.head)
        return [one for one in self.records[group] if end - self.span < one[0] <= end]

    def total(self, group: int) -> int:
        return sum(amount for _, amount, _ in self._window(group))

    def values(self, group: int) -> int:
        """Return the number of values. A value counts by its latest bucket: a window ends at the latest record."""
        return len({value for _, _, value in self._window(group)})


STEPS = st.lists(
    st.tuples(
        st.integers(0, 40),  # seconds that pass
        st.lists(st.tuples(st.integers(0, 4), st.integers(0, 250), st.integers(1, 9), st.integers(1, 12)), max_size=12),
    ),
    max_size=25,
)


@settings(max_examples=80, deadline=None)
@given(st.sampled_from(WINDOWS), st.integers(0, 12), st.integers(2, 6), STEPS)
def test_totals_and_values_are_those_of_a_list_of_all_records(
    window_s: int, lateness_s: int, threshold: int, steps: list[tuple[int, list[tuple[int, int, int, int]]]]
) -> None:
    clock, naive = WindowClock(window_s, lateness_s), Naive(window_s, lateness_s)
    amounts, values = WindowSums(clock), DistinctValues(clock, threshold, 10_000)
    for thing in (clock, amounts, values):
        thing.grow(5)
    rows = np.arange(5)
    now = 1_000_000
    for passed, records in steps:
        now += passed
        before, clock.head = clock.head, clock.bucket(now)
        naive.head = clock.head
        amounts.advance(before, clock.head)
        for group, age, amount, value in records:
            naive.add(group, now - age, amount, value)
            bucket = clock.bucket(now - age)
            if bucket > clock.head - clock.columns:
                row = np.array([group])
                amounts.add(row, bucket, np.array([amount]))
                values.add(group, bucket, value)
                clock.observe(row, np.array([bucket]))
        assert amounts.totals(rows).tolist() == [naive.total(group) for group in range(5)]
        found, expected = values.totals(rows).tolist(), [naive.values(group) for group in range(5)]
        # The number stops at the limit.
        assert found == [min(number, threshold) for number in expected]


def test_a_count_does_not_overflow() -> None:
    clock = WindowClock(10, 0)
    amounts = WindowSums(clock)
    clock.grow(1)
    amounts.grow(1)
    clock.head = 100
    row = np.array([0])
    for _ in range(3):
        amounts.add(row, 100, np.array([3_000_000_000]))
    clock.observe(row, np.array([100]))
    assert amounts.totals(row).tolist() == [(1 << 32) - 1]


def test_slots_are_bounded_and_evicted_values_are_counted() -> None:
    clock = WindowClock(10, 0)
    values = DistinctValues(clock, 100, 12)
    for thing in (clock, values):
        thing.grow(2)
    clock.head = 100
    for value in range(20):
        values.add(0, 100, value)
    assert values.totals(np.array([0])).tolist() == [16]  # doubled as long as there was room
    assert values.evicted == 4
    values.clear(np.array([0]))
    values.add(1, 100, 1)
    clock.observe(np.array([1]), np.array([100]))
    assert values.totals(np.array([0, 1])).tolist() == [0, 1]


class Table:
    """GroupTable whose rows are looked at."""

    def __init__(self, most: int) -> None:
        self.rows, self.cleared, self.pinned = 0, list[int](), set[str]()
        self.groups = GroupTable(most, self._grow, lambda rows: self.cleared.extend(rows.tolist()), lambda: self.pinned)

    def _grow(self, rows: int) -> None:
        self.rows = rows

    def use(self, *keys: str) -> list[int | None]:
        self.groups.start_batch()
        return [self.groups.use(key) for key in keys]


def test_the_least_recently_used_group_is_evicted() -> None:
    table = Table(3)
    table.use("a", "b", "c")
    table.use("a")
    table.pinned = {"b"}
    (row,) = table.use("d")
    assert table.cleared == [row]
    assert [table.groups.find(key) is None for key in "abcd"] == [False, False, True, False]
    assert (len(table.groups), table.rows, table.groups.evicted) == (3, 3, 1)


def test_a_group_is_refused_if_all_others_are_pinned_or_of_the_same_batch() -> None:
    table = Table(3)
    table.pinned = {"a", "b"}
    table.use("a", "b")
    assert table.use("c", "d")[1] is None
    assert table.groups.find("c") is not None
    assert table.use("d")[0] is not None
    assert table.groups.find("c") is None
