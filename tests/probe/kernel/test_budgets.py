"""Budgets of pods that come, go and come back under the number that they had."""

from __future__ import annotations

from typing import cast

import numpy as np
import pytest

from probe.kernel.budgets import Budgets
from probe.kernel.layout import BUDGET, NO_SLOT, PLACE
from probe.kernel.maps import Maps
from tests.probe.kernel.memory_maps import MemoryMaps

_ENDPOINTS = 16
_RESERVE = (1 << 20) // 2 // _ENDPOINTS // 2
"""Places of an account."""
_LENT = 1 << 19
"""The first place that no slot covers."""


@pytest.fixture
def maps() -> MemoryMaps:
    return MemoryMaps({"endpoints": _ENDPOINTS})


def _budgets(maps: MemoryMaps) -> Budgets:
    return Budgets(cast(Maps, maps))


def _take(maps: MemoryMaps, payer: int, account: int, *numbers: int) -> None:
    """Put connections of an endpoint into places, as the programs do."""
    for number in numbers:
        place = np.zeros(1, PLACE)
        place["payer"], place["account"] = payer, account
        maps["places"].set(number.to_bytes(4, "little"), place.tobytes())


def _borrowed(maps: MemoryMaps, number: int) -> list[int]:
    raw = maps["budgets"].get(number.to_bytes(4, "little"))
    assert raw is not None
    return [int(account["borrowed"]) for account in raw["account"]]


def test_a_pod_that_comes_back_is_charged_for_the_lent_places_that_it_still_has(maps: MemoryMaps) -> None:
    budgets = _budgets(maps)
    budgets.assign([6, 7])
    _take(maps, 7, 0, 2 * _RESERVE, *range(_LENT, _LENT + 100))
    _take(maps, 7, 1, 3 * _RESERVE, _LENT + 100)
    _take(maps, 6, 0, 0, _LENT + 101)

    budgets.retain([6])
    budgets.assign([6, 7])

    assert _borrowed(maps, 7) == [100, 1], "place 0 of each of its accounts is its own"


def test_what_was_its_own_is_lent_once_another_pod_has_its_slot(maps: MemoryMaps) -> None:
    budgets = _budgets(maps)
    budgets.assign([7])
    _take(maps, 7, 0, 0, 1, 2)

    budgets.retain([])
    budgets.assign([8, 7])

    assert _borrowed(maps, 8) == [0, 0]
    assert _borrowed(maps, 7) == [3, 0]


def test_a_pod_that_comes_back_to_another_probe_is_charged_too(maps: MemoryMaps) -> None:
    budgets = _budgets(maps)
    budgets.assign([7])
    _take(maps, 7, 0, _LENT)
    budgets.retain([])

    _budgets(maps).assign([7])

    assert _borrowed(maps, 7) == [1, 0]


def test_a_pod_that_comes_back_to_a_full_node_is_charged_for_all_its_places(maps: MemoryMaps) -> None:
    budgets = _budgets(maps)
    budgets.assign(range(1, _ENDPOINTS + 1))
    _take(maps, 1, 0, 0, 1, _LENT)
    budgets.retain(range(2, _ENDPOINTS + 1))
    budgets.assign([_ENDPOINTS + 1])

    budgets.assign([1])

    raw = maps["budgets"].get((1).to_bytes(4, "little"))
    assert raw is not None
    assert int(raw["slot"]) == NO_SLOT
    assert _borrowed(maps, 1) == [3, 0]


def test_a_new_pod_owes_nothing(maps: MemoryMaps) -> None:
    budgets = _budgets(maps)
    budgets.assign([1])
    # Nothing is counted for a number that nobody had, so this is not looked at.
    _take(maps, 2, 0, _LENT)

    budgets.assign([2])

    assert _borrowed(maps, 2) == [0, 0]
    assert BUDGET.itemsize == len(maps["budgets"].content[(2).to_bytes(4, "little")])
