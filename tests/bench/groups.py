"""Measure the cost of many groups of one alert rule: ``python -m tests.bench.groups CASE GROUPS``.

It prints as JSON by how much the process's memory grew from before the first delta until every group has several
records in its window, and the deltas per second. Group keys are as long as in a cluster. Each case runs in its own
process, so that its memory is that of this case only.
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
_DELTAS_PER_CALL: Final = 2000
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
    """Measure the case that is named on the command line."""
    case, groups = sys.argv[1], int(sys.argv[2])
    rule = read(orjson.dumps({"version": 1, "rules": [{"name": "bench", **CASES[case]}]}), "bench").rules[0]
    events: list[tuple[str, str, int]] = []
    engine = Engine([rule], groups, lambda *what: events.append(what))
    gc.collect()
    before, now, spent = _resident(), 1_790_000_000, 0.0
    # A rule with `first` makes no event for a pair that it knows, so all of its deltas are old ones.
    ages = [600] * _ROUNDS if rule.first else [120, 60, 30, 15, 0]
    for number, age in enumerate(ages):
        for deltas in _deltas(rule, groups, now - age, number):
            started = time.perf_counter()
            engine.take(deltas, now)
            engine.tick(now)
            spent += time.perf_counter() - started
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
    for first in range(0, groups, _DELTAS_PER_CALL):
        yield [
            Delta(
                rule.name, version,
                ["bench", f"team-{one % 50}/Deployment/app-{one}", f"data/StatefulSet/db-{one % 700}"],
                {second: 3}, {value_hash(str(number)): second}, policies=["NetworkPolicy data/default-deny"],
                namespace="data",
            )
            for one in range(first, min(first + _DELTAS_PER_CALL, groups))
        ]  # fmt: skip


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE


if __name__ == "__main__":
    main()
