"""Rules over records that are past: when they would have fired and resolved. Values only.

Each record comes at its own time, all of a second together, and time passes second by second while anything is going
on: what really came late is taken as if it had not. After the last record it goes on until all is resolved.
"""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from streams.alerts.counting import Counter
from streams.alerts.engine import Engine
from streams.alerts.model import Rule

Flow = Mapping[str, Any]


class Rehearsal:
    """Takes records in any order, then runs."""

    def __init__(self, rules: Sequence[Rule], groups: int) -> None:
        """``groups``: most of a rule."""
        self.records = 0
        self.happened = Tally[tuple[str, str]]()
        """By rule and what: see :data:`streams.alerts.tracker.Count`."""
        self._rules = rules
        self._engine = Engine(rules, groups, self._count)
        self._seconds: dict[int, Counter] = {}
        self._ids: set[str] = set()

    def add(self, record: Flow) -> None:
        """A flow, or a loss of the status topic. A repeat counts once; an allow for nothing. Raises ValueError."""
        try:
            is_flow = "connection" in record
            if is_flow and (record["id"] in self._ids or record["disposition"] == "allow"):
                return
            stamp = record["last_timestamp" if is_flow else "timestamp"]
            second = int(datetime.fromisoformat(f"{stamp[:19]}+00:00").timestamp())
        except (KeyError, TypeError) as error:
            raise ValueError(f"{type(error).__name__}: {error}") from error
        counter = self._seconds.get(second)
        if counter is None:
            counter = self._seconds[second] = Counter(self._rules)
        if is_flow:
            self._ids.add(record["id"])
            counter.flow(record)
        else:
            counter.status(record)
        self.records += 1

    def run(self) -> Iterator[dict[str, Any]]:
        """Alerts' changes of state, in the order of time."""
        now = 0
        for second in sorted(self._seconds):
            yield from self._pass(now, second)
            now = second + 1
            self._engine.take(self._seconds.pop(second).drain(), now)
            self._engine.tick(now)
            yield from self._said()
        yield from self._pass(now, None)

    def _pass(self, now: int, until: int | None) -> Iterable[dict[str, Any]]:
        """Seconds without records, as long as any alert waits for one."""
        while (until is None or now < until) and any(one.alerts for one in self._engine.trackers.values()):
            now += 1
            self._engine.tick(now)
            yield from self._said()

    def _said(self) -> list[dict[str, Any]]:
        return self._engine.drain().alerts

    def _count(self, rule: str, what: str, number: int) -> None:
        self.happened[rule, what] += number
