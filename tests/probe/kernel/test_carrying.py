"""When two generations' tables of connections are linked. ``tests/kernel`` has what programs find by that."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import cast

import numpy as np
import pytest
from structlog.testing import capture_logs

from probe.kernel import bpf
from probe.kernel.carrying import Carrier
from probe.kernel.layout import CONNECTION_KEY, INDEX, MAPS, MapLayout
from probe.kernel.maps import Maps

_OTHER_LAYOUT = MapLayout(MAPS["connections"].kind, CONNECTION_KEY, np.dtype([("last_ns", "<u8")]))


@dataclass
class Table:
    """A map. ``fd`` is its number as well."""

    name: str
    fd: int
    layout: MapLayout
    refuses: bool = False
    content: dict[bytes, bytes] = field(default_factory=dict)

    def set(self, key: bytes, value: bytes) -> None:
        if self.refuses:
            raise OSError(22, "bpf(MAP_UPDATE_ELEM): Invalid argument")
        self.content[key] = value


def generation(number: int, layout: MapLayout = MAPS["connections"], *, refuses: bool = False) -> dict[str, Table]:
    """Make the maps of a generation whose table of connections has this number."""
    other = Table("other_table", number + 100, MapLayout(12, INDEX, INDEX), refuses)
    return {"connections": Table("connections", number, layout), "other_table": other}


def link(old: dict[str, Table], new: dict[str, Table]) -> None:
    Carrier(cast("Maps", old), cast("Maps", new))


def linked(maps: dict[str, Table]) -> int | None:
    """Return the number of the table that is looked into as well."""
    content = maps["other_table"].content if "other_table" in maps else {}
    return int.from_bytes(content[bytes(4)], "little") if content else None


@pytest.fixture(autouse=True)
def _numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bpf, "map_info", lambda fd: bpf.MapInfo(9, fd, 48, 80, 1, 0))


def test_each_generation_looks_into_the_table_of_the_other() -> None:
    old, new = generation(1), generation(2)
    link(old, new)
    assert (linked(old), linked(new)) == (2, 1)


def test_of_three_generations_the_newest_looks_into_the_last_table_that_is_not_its_own() -> None:
    first, second, newest = generation(1), generation(2), generation(2)
    link(first, newest)
    link(second, newest)  # it shares the table
    assert (linked(first), linked(newest)) == (2, 1)


@pytest.mark.parametrize("has_other_table", [True, False], ids=["another layout", "an earlier version"])
def test_a_table_that_cannot_be_read_is_not_looked_into(*, has_other_table: bool) -> None:
    old, new = generation(1, _OTHER_LAYOUT if has_other_table else MAPS["connections"]), generation(2)
    if not has_other_table:
        del old["other_table"]
    link(old, new)
    assert (linked(old), linked(new)) == (None, None)


@pytest.mark.parametrize("who", ["old", "new"])
def test_a_takeover_goes_on_if_the_kernel_refuses_the_link(who: str) -> None:
    old, new = generation(1, refuses=who == "old"), generation(2, refuses=who == "new")
    with capture_logs() as logs:
        link(old, new)
    assert linked({"old": old, "new": new}[who]) is None
    assert [line["error"] for line in logs] == ["[Errno 22] bpf(MAP_UPDATE_ELEM): Invalid argument"]
