"""Backtest: run rules over records of the past, and say when they would have fired and resolved.

THEORY OF OPERATION

1. All records are added first, in any order, and counted per second of their own time. A repeated id counts once.
2. :meth:`Backtest.run` then moves a simulated clock from second to second. The records of second 100 are given to the
   engine when the clock shows 101, as if they had arrived without delay. Records that really arrived late are thus
   treated as if they had been on time, and nothing is counted as late.
3. Seconds without records are skipped unless an alert exists: then each is a tick, because the alert may fire
   (``for``) or be resolved in it.
4. After the last record the clock runs until every alert is resolved.

Rules of the kind after_change cannot be tested like this: records do not contain changes of policies.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any, Final

import msgspec

from enrich.wire.flow import decode_flow
from streams.alerts.counting import RecordCounter
from streams.alerts.engine import Engine
from streams.alerts.model import AlertRule


class _Kind(msgspec.Struct):
    """What tells a flow record, which has a connection, from a status record."""

    timestamp: str
    connection: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


_KIND_DECODER: Final = msgspec.json.Decoder(_Kind)


class Backtest:
    """Takes records in any order, then runs once."""

    def __init__(self, rules: Sequence[AlertRule], limit: int) -> None:
        """``limit`` is the maximum number of groups of each rule."""
        self.records = 0
        self.events = Counter[tuple[str, str]]()
        """Rule and event to how often it happened: see :data:`streams.alerts.tracker.CountEvent`."""
        self._rules = rules
        self._engine = Engine(rules, limit, self._count)
        self._seconds: dict[int, RecordCounter] = {}
        self._ids: set[str] = set()

    def add(self, value: bytes) -> None:
        """Add a flow record or a status record as JSON. Repeats and allowed connections are ignored.

        Raises ValueError for anything else."""
        kind = _KIND_DECODER.decode(value)
        if kind.connection is msgspec.UNSET:
            self._counter(kind.timestamp).count_status(value)
        else:
            flow = decode_flow(value)
            if flow.id in self._ids or flow.disposition == "allow":
                return
            self._ids.add(flow.id)
            counter = self._counter(flow.last_timestamp)
            counter.count_flow(counter.read_flow(value))
        self.records += 1

    def _counter(self, timestamp: str) -> RecordCounter:
        second = int(datetime.fromisoformat(f"{timestamp[:19]}+00:00").timestamp())
        counter = self._seconds.get(second)
        if counter is None:
            counter = self._seconds[second] = RecordCounter(self._rules)
        return counter

    def run(self) -> Iterator[dict[str, Any]]:
        """Yield the alert records, ordered by time."""
        now = 0
        for second in sorted(self._seconds):
            yield from self._advance(now, second)
            now = second + 1
            self._engine.take(self._seconds.pop(second).drain(), now)
            self._engine.tick(now)
            yield from self._engine.drain().alerts
        yield from self._advance(now, None)

    def _advance(self, now: int, until: int | None) -> Iterable[dict[str, Any]]:
        """Tick through the seconds without records for as long as there is an alert."""
        while (until is None or now < until) and any(one.active for one in self._engine.trackers.values()):
            now += 1
            self._engine.tick(now)
            yield from self._engine.drain().alerts

    def _count(self, rule: str, event: str, number: int) -> None:
        self.events[rule, event] += number
