"""The account of epochs finds nothing where nothing is wrong, and each planted difference."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.custody.epochs import epoch_differences
from tests.custody.sample_run import START, S, SampleRun


def text(at_s: float) -> str:
    moment = datetime.fromtimestamp(START // S + int(at_s), UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{int(at_s % 1 * S):09d}Z"


def record(epoch: int, at_s: float, **versions: str) -> dict[str, Any]:
    policies = [
        {"kind": "NetworkPolicy", "namespace": "shop", "name": name, "uid": f"uid-{name}", "version": version}
        for name, version in versions.items()
    ]
    return {
        "node": "n1", "epoch": epoch, "in_force": [text(at_s), text(at_s + 0.000001)], "policies": policies,
        "left_out": 0,
    }  # fmt: skip


RECORDS = [record(4, 10, low="a"), record(6, 50.5, low="a", open="b"), record(9, 60, low="a", open="b")]


def _name_one_too_few(records: list[dict[str, Any]]) -> None:
    records[2]["policies"].pop()


def _name_one_too_early(records: list[dict[str, Any]]) -> None:
    records[0]["policies"] = records[1]["policies"]


def _give_another_version(records: list[dict[str, Any]]) -> None:
    records[2]["policies"][0]["version"] = "c"


def _give_one_version_to_two(records: list[dict[str, Any]]) -> None:
    records[2]["policies"][1]["version"] = "a"


def _give_another_uid(records: list[dict[str, Any]]) -> None:
    records[0]["policies"][0]["uid"] = "uid-open"


def _leave_one_out(records: list[dict[str, Any]]) -> None:
    records[0]["left_out"] = 1


PLANTED: dict[Callable[[list[dict[str, Any]]], None], str] = {
    _name_one_too_few: r"epoch 9 of n1 stands for \['low'\].*in truth one of \[\['low', 'open'\]\]",
    _name_one_too_early: r"epoch 4 of n1 stands for \['low', 'open'\]",
    _give_another_version: "one policy has several versions",
    _give_one_version_to_two: "version a is",
    _give_another_uid: "low has the UID uid-open",
    _leave_one_out: "1 policies were left out",
}


def test_nothing_is_found_where_nothing_is_wrong() -> None:
    assert epoch_differences(SampleRun().script, RECORDS) == []
    without_time = {key: value for key, value in record(1, 0, other="d").items() if key != "in_force"}
    assert epoch_differences(SampleRun().script, [without_time, *RECORDS]) == []


@pytest.mark.parametrize("plant", PLANTED, ids=lambda plant: plant.__name__.strip("_"))
def test_each_difference_is_found(plant: Callable[[list[dict[str, Any]]], None]) -> None:
    records = copy.deepcopy(RECORDS)
    plant(records)
    found = epoch_differences(SampleRun().script, records)
    assert any(re.search(PLANTED[plant], one) for one in found), found
