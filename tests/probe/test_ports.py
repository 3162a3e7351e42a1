"""Port ranges as disjoint segments and as prefixes: every port, no other."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from probe.policy.port_prefixes import prefixes, segments

PORT = st.integers(0, 65535)
RANGE = st.tuples(PORT, PORT).map(lambda pair: (min(pair), max(pair)))


@given(RANGE)
def test_prefixes_cover_exactly_the_range(ends: tuple[int, int]) -> None:
    low, high = ends
    following = low
    for port, bits in prefixes(low, high):
        assert port == following
        assert port % (1 << (16 - bits)) == 0
        following = port + (1 << (16 - bits))
    assert following == high + 1


@given(RANGE)
def test_there_are_few_of_them(ends: tuple[int, int]) -> None:
    assert len(list(prefixes(*ends))) <= 30


def test_all_ports_are_one_prefix() -> None:
    assert list(prefixes(0, 65535)) == [(0, 0)]
    assert list(prefixes(443, 443)) == [(443, 16)]


@given(st.lists(st.tuples(RANGE, st.sampled_from("abcd")), max_size=8), st.lists(PORT, max_size=20))
def test_segments_say_of_each_port_whose_ranges_hold_it(
    ranges: list[tuple[tuple[int, int], str]], more: list[int]
) -> None:
    found = list(segments((low, high, who) for (low, high), who in ranges))
    assert all(first[1] < second[0] for first, second in itertools.pairwise(found))
    edges = [port + step for (low, high), _ in ranges for port in (low, high) for step in (-1, 0, 1)]
    for port in (*edges, *more):
        wanted = {who for (low, high), who in ranges if low <= port <= high}
        assert next((set(who) for low, high, who in found if low <= port <= high), set()) == wanted


def test_neighbours_with_the_same_owners_are_one() -> None:
    assert list(segments([(1, 5, "a"), (6, 9, "a")])) == [(1, 9, frozenset("a"))]
