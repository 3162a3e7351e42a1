"""Cases that combine each value of each dimension with each value of every other one at least once."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import pytest

Case = tuple[Any, ...]


def pairwise(indirect: Sequence[str] = (), **dimensions: Sequence[Any]) -> pytest.MarkDecorator:
    """Parametrize a test with cases that cover all pairs of values, instead of with the product of all dimensions.

    A fault that needs one certain value in three dimensions at a time can be missed. ``indirect`` names the dimensions
    that are fixtures.
    """
    cases = covering(list(dimensions.values()))
    return pytest.mark.parametrize(tuple(dimensions), cases, ids=lambda value: str(value) or "-", indirect=indirect)


def covering(dimensions: Sequence[Sequence[Any]]) -> list[Case]:
    """Return few cases with all pairs of values of two dimensions: each is the one that adds most of them."""
    product = list(itertools.product(*dimensions))
    missing = set().union(*map(_pairs, product))
    cases = []
    while missing:
        case = max(product, key=lambda some: len(_pairs(some) & missing))
        cases.append(case)
        missing -= _pairs(case)
    return cases


def _pairs(case: Case) -> set[tuple[tuple[int, Any], ...]]:
    return set(itertools.combinations(enumerate(case), 2))
