"""What so many groups of an alert rule cost: ``python -m tests.bench.groups CASE GROUPS``, a process for each.

Prints, as JSON, the memory that the process has grown by from before the first delta to when every group has several
records in its window, and deltas a second. What a group is called is as long as in a cluster.
"""

from __future__ import annotations

import gc
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import orjson

from streams.alerts.deltas import Delta, value_hash, version_of
from streams.alerts.engine import Engine
from streams.alerts.model import AlertRule
from streams.alerts.read import read

_PAGE: Final = os.sysconf("SC_PAGE_SIZE")
_AT_ONCE: Final = 2000
_ROUNDS: Final = 5
CASES: Final = {
    "counted": {"group_by": ["src.name", "dest.name"], "above": {"threshold": 1000, "window": "5m"}},
    "different values": {
        "group_by": ["src.name", "dest.name"],
        "above": {"threshold": 15, "window": "5m", "distinct": ["port"]},
    },
    "first": {"group_by": ["src.name", "dest.name"], "first": {}, "resolve_after": "0s"},
    "after_change": {"group_by": ["src.name", "dest.name"], "after_change": {}},
}


def main() -> None:
    """One case."""
    case, groups = sys.argv[1], int(sys.argv[2])
    rule = read(orjson.dumps({"version": 1, "rules": [{"name": "bench", **CASES[case]}]}), "bench").rules[0]
    events: list[tuple[str, str, int]] = []
    engine = Engine([rule], groups, lambda *what: events.append(what))
    gc.collect()
    before, now, spent = _resident(), 1_790_000_000, 0.0
    # A pair that is known already says nothing: the first time of each is long ago.
    ages = [600] * _ROUNDS if rule.first else [120, 60, 30, 15, 0]
    for number, age in enumerate(ages):
        for deltas in _deltas(rule, groups, now - age, number):
            began = time.perf_counter()
            engine.take(deltas, now)
            engine.tick(now)
            spent += time.perf_counter() - began
            engine.drain()
    gc.collect()
    found = {
        "groups": sum(engine.groups().values()),
        "megabytes": (_resident() - before) / 1e6,
        "deltas_a_second": groups * len(ages) / spent,
        "dropped": [one for one in events if one[1] != "late"],
    }
    sys.stdout.write(orjson.dumps(found).decode())


def _deltas(rule: AlertRule, groups: int, second: int, number: int) -> Iterator[list[Delta]]:
    version = version_of(rule)
    for first in range(0, groups, _AT_ONCE):
        yield [
            Delta(
                rule.name, version,
                ["bench", f"team-{one % 50}/Deployment/app-{one}", f"data/StatefulSet/db-{one % 700}"],
                {second: 3}, {value_hash(str(number)): second}, policies=["NetworkPolicy data/default-deny"],
                namespace="data",
            )
            for one in range(first, min(first + _AT_ONCE, groups))
        ]  # fmt: skip


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE


if __name__ == "__main__":
    main()
