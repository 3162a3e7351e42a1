"""Rules of the kind `above`: so many in a window, or so many different values."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import numpy as np

from streams.alerts.alert import Alert, State, state_of
from streams.alerts.deltas import Delta
from streams.alerts.group_table import Groups
from streams.alerts.model import Rule
from streams.alerts.tracker import LATENESS_S, Count, Outbox, Tracker
from streams.alerts.windows import Amounts, Clock, Ints, Values
from streams.config.fields import seconds

_MOST_VALUES: Final = 1000
_VALUES_PER_GROUP: Final = 20
"""On average, at the most groups."""


class AboveTracker(Tracker):
    """Groups in columns; those that are above the threshold, or were, have an alert."""

    def __init__(self, rule: Rule, most: int, out: Outbox, count: Count) -> None:
        """``most``: groups."""
        super().__init__(rule, out, count)
        assert rule.above is not None  # noqa: S101 - its kind
        self._threshold, self._hold_s = rule.above.threshold, seconds(rule.above.hold)
        self._clock = Clock(seconds(rule.above.window), LATENESS_S)
        self._values = (
            Values(self._clock, min(_MOST_VALUES, 2 * self._threshold), most * _VALUES_PER_GROUP)
            if rule.above.distinct
            else None
        )
        self._amounts = Amounts(self._clock) if self._values is None else None
        self._groups = Groups(most, self._grow, self._clear, lambda: map(_key, self.alerts))
        self._unsettled: set[int] = set()

    @property
    def span_s(self) -> int:
        return self._clock.columns * self._clock.width

    @property
    def groups(self) -> int:
        """How many there are."""
        return len(self._groups)

    def load(self, name: str, state: State, now: float) -> None:
        self._advance(now)
        if self._groups.row(_key(state.group)) is not None:
            super().load(name, state, now)

    def take(self, deltas: Sequence[Delta], now: float, *, replayed: bool) -> None:
        self._advance(now)
        self._groups.begin()
        if self._amounts is not None:
            self._take_amounts(self._amounts, deltas, now, replayed=replayed)
        elif self._values is not None:
            self._take_values(self._values, deltas, now, replayed=replayed)

    def tick(self, now: float) -> None:
        self._advance(now)
        if self._unsettled:
            rows, self._unsettled = np.array(sorted(self._unsettled), np.int64), set()
            self._look(rows, now)
        if not self.alerts:
            return
        alerts = list(self.alerts.values())
        rows = np.array([self._groups.find(_key(alert.group)) for alert in alerts], np.int64)
        for alert, total in zip(alerts, self._totals(rows).tolist(), strict=True):
            if total >= self._threshold:
                alert.last_true, alert.count = now, max(alert.count, total)
                if alert.status == "pending" and now - alert.since >= self._hold_s:
                    self._fire(alert, now)
            elif alert.status == "pending":
                del self.alerts[alert.group]
                self._keep(alert.group, None)
        for alert in self._over(now):
            self._resolve(alert, now)

    def _take_amounts(self, counts: Amounts, deltas: Iterable[Delta], now: float, *, replayed: bool) -> None:
        found: defaultdict[int, defaultdict[int, int]] = defaultdict(lambda: defaultdict(int))
        for delta in deltas:
            fresh = self._fresh(delta.amounts, now)
            row = self._row_of(delta) if fresh else None
            if row is not None:
                for bucket, amount in fresh:
                    found[bucket][row] += amount
        for bucket, amounts in sorted(found.items()):
            rows = np.fromiter(amounts.keys(), np.int64, len(amounts))
            counts.add(rows, bucket, np.fromiter(amounts.values(), np.int64, len(amounts)))
            self._seen(rows, bucket, now, replayed=replayed)

    def _take_values(self, values: Values, deltas: Iterable[Delta], now: float, *, replayed: bool) -> None:
        found: defaultdict[int, list[tuple[int, int]]] = defaultdict(list)
        for delta in deltas:
            seconds_of = dict.fromkeys(delta.distinct.values(), 0)
            fresh = {bucket for bucket, _ in self._fresh(seconds_of, now)}
            row = self._row_of(delta) if fresh else None
            if row is not None:
                for value, second in delta.distinct.items():
                    bucket = self._bucket(second, now)
                    if bucket in fresh:
                        found[bucket].append((row, value))
        before = values.squeezed
        for bucket, pairs in sorted(found.items()):
            for row, value in pairs:
                values.add(row, bucket, value)
            self._seen(np.unique(np.array([row for row, _ in pairs], np.int64)), bucket, now, replayed=replayed)
        if values.squeezed > before:
            self._count(self.rule.name, "squeezed", values.squeezed - before)

    def _fresh(self, amounts: Mapping[int, int], now: float) -> list[tuple[int, int]]:
        """Buckets and amounts that are not too late; others are counted."""
        first = self._clock.head - self._clock.columns
        found = [(self._bucket(second, now), amount) for second, amount in amounts.items()]
        fresh = [one for one in found if one[0] > first]
        if len(fresh) < len(found):
            self._count(self.rule.name, "late", len(found) - len(fresh))
        return fresh

    def _bucket(self, second: int, now: float) -> int:
        """A clock that is ahead does not make a record count for longer."""
        return self._clock.bucket(min(second, now))

    def _seen(self, rows: Ints, bucket: int, now: float, *, replayed: bool) -> None:
        self._clock.see(rows, np.full(len(rows), bucket, np.int64))
        if replayed:
            # More of the same window may come yet.
            self._unsettled.update(rows.tolist())
        else:
            self._look(rows, now)

    def _look(self, rows: Ints, now: float) -> None:
        """Whether any of these is above the threshold now."""
        totals = self._totals(rows)
        above = totals >= self._threshold
        for row, total, end in zip(
            rows[above].tolist(), totals[above].tolist(), self._clock.ends(rows[above]).tolist(), strict=True
        ):
            group = tuple(self._groups.key(row).split("\0"))
            alert = self.alerts.get(group)
            if alert is not None:
                alert.last_true, alert.count = now, max(alert.count, total)
                continue
            started = min(now, float(self._clock.begin(end)))
            alert = self.alerts[group] = Alert(group, "pending", now, started, now, total)
            if self._hold_s:
                self._keep(group, state_of(self.rule, alert))
            else:
                self._fire(alert, now)

    def _totals(self, rows: Ints) -> Ints:
        if self._values is not None:
            return self._values.totals(rows)
        assert self._amounts is not None  # noqa: S101 - one of the two
        return self._amounts.totals(rows)

    def _row_of(self, delta: Delta) -> int | None:
        before = self._groups.dropped
        row = self._groups.row(_key(delta.group))
        if self._groups.dropped > before:
            self._count(self.rule.name, "dropped_groups", self._groups.dropped - before)
        if row is None:
            self._count(self.rule.name, "refused_groups", 1)
        else:
            self._remember(delta)
        return row

    def _advance(self, now: float) -> None:
        head = self._clock.bucket(now)
        # Never back: a wall clock that was set back would empty what is there.
        if head > self._clock.head:
            before, self._clock.head = self._clock.head, head
            if self._amounts is not None:
                self._amounts.advance(before, head)

    def _grow(self, rows: int) -> None:
        self._clock.grow(rows)
        if self._amounts is not None:
            self._amounts.grow(rows)
        if self._values is not None:
            self._values.grow(rows)

    def _clear(self, rows: Ints) -> None:
        self._clock.clear(rows)
        self._unsettled.difference_update(rows.tolist())
        if self._amounts is not None:
            self._amounts.clear(rows)
        if self._values is not None:
            self._values.clear(rows)


def _key(group: Sequence[str]) -> str:
    return "\0".join(group)
