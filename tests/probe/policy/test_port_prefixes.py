"""Tests of port ranges as prefixes: together they contain every port of the range and no other."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from probe.policy.port_prefixes import port_prefixes

PORT = st.integers(0, 65535)
RANGE = st.tuples(PORT, PORT).map(lambda pair: (min(pair), max(pair)))


@given(RANGE)
def test_prefixes_cover_exactly_the_range(ends: tuple[int, int]) -> None:
    low, high = ends
    following = low
    for port, bits in port_prefixes(low, high):
        assert port == following
        assert port % (1 << (16 - bits)) == 0
        following = port + (1 << (16 - bits))
    assert following == high + 1


@given(RANGE)
def test_there_are_few_of_them(ends: tuple[int, int]) -> None:
    assert len(list(port_prefixes(*ends))) <= 30


def test_all_ports_are_one_prefix() -> None:
    assert list(port_prefixes(0, 65535)) == [(0, 0)]
    assert list(port_prefixes(443, 443)) == [(443, 16)]
