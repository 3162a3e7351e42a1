"""The cases of tests with many dimensions combine each pair of values."""

from __future__ import annotations

import itertools

import pytest

from tests.kernel.pairs import covering


@pytest.mark.parametrize("sizes", [(2, 2), (2, 2, 2, 2), (2, 2, 2, 2, 2), (3, 2, 4)])
def test_each_pair_of_values_is_in_some_case(sizes: tuple[int, ...]) -> None:
    cases = covering([range(size) for size in sizes])
    for (i, first), (j, second) in itertools.combinations(enumerate(sizes), 2):
        assert {(case[i], case[j]) for case in cases} == set(itertools.product(range(first), range(second)))


def test_there_are_few_of_them() -> None:
    assert len(covering([range(2)] * 5)) <= 7
    assert covering([]) == []
