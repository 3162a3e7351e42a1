"""Rules of the kind ``above``: a count within a sliding window, or a number of distinct values, reaches a threshold.

THEORY OF OPERATION

Example: ``above: {threshold: 5, window: 10s, for: 20s}``, ``resolve_after: 5m``.

1. Deltas arrive. Amounts that are older than any window (:mod:`streams.alerts.windows`) are counted as late and
   dropped; the others are added to the group's buckets.
2. The totals of the groups that changed are compared with the threshold. A group with 5 or more gets an alert. It is
   pending because of ``for``; without ``for`` it fires at once.
3. Every tick evaluates all groups with an alert again, because a window also empties as time passes. A pending alert
   that falls below the threshold is dropped without a record; one that has held for 20 s fires.
4. A firing alert is resolved when its total has been below the threshold for 5 minutes.

Deltas that are replayed after a restart are only added up; the groups are evaluated at the next tick. Evaluating in the
middle of a replay would see windows that are half filled.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import numpy as np

from streams.alerts.alert import Alert, AlertState, to_state
from streams.alerts.deltas import Delta
from streams.alerts.group_table import GroupTable
from streams.alerts.model import AlertRule
from streams.alerts.outbox import Outbox, resolve_orphan
from streams.alerts.tracker import LATENESS_S, CountEvent, Tracker
from streams.alerts.windows import DistinctValues, Ints, WindowClock, WindowSums
from streams.config.fields import seconds

_MAX_DISTINCT_PER_GROUP: Final = 1000
_MEAN_DISTINCT_PER_GROUP: Final = 20
"""Bounds the memory of all groups together, when there are as many groups as allowed."""


class ThresholdTracker(Tracker):
    """Keeps groups in columns. A group whose total reaches the threshold, or did a moment ago, has an alert."""

    def __init__(self, rule: AlertRule, limit: int, out: Outbox, count: CountEvent) -> None:
        """``limit`` is the maximum number of groups."""
        super().__init__(rule, out, count)
        assert rule.above is not None  # noqa: S101 - its kind
        self._threshold, self._hold_s = rule.above.threshold, seconds(rule.above.hold)
        self._clock = WindowClock(seconds(rule.above.window), LATENESS_S)
        self._values = (
            DistinctValues(
                self._clock, min(_MAX_DISTINCT_PER_GROUP, 2 * self._threshold), limit * _MEAN_DISTINCT_PER_GROUP
            )
            if rule.above.distinct
            else None
        )
        self._sums = WindowSums(self._clock) if self._values is None else None
        self._groups = GroupTable(limit, self._grow, self._clear, lambda: map(_key, self.alerts))
        self._unevaluated: set[int] = set()
        """Rows changed by a replay, to be evaluated at the next tick."""

    @property
    def history_s(self) -> int:
        return self._clock.columns * self._clock.width

    @property
    def groups(self) -> int:
        return len(self._groups)

    def load(self, name: str, state: AlertState, now: float) -> None:
        self._advance(now)
        if self._groups.use(_key(state.group)) is None:
            resolve_orphan(name, state, now, self._out, "evicted")
        else:
            super().load(name, state, now)

    def take(self, deltas: Sequence[Delta], now: float, *, replayed: bool) -> None:
        self._advance(now)
        self._groups.start_batch()
        if self._sums is not None:
            self._take_amounts(self._sums, deltas, now, replayed=replayed)
        elif self._values is not None:
            self._take_values(self._values, deltas, now, replayed=replayed)

    def tick(self, now: float) -> None:
        self._advance(now)
        if self._unevaluated:
            rows, self._unevaluated = np.array(sorted(self._unevaluated), np.int64), set()
            self._evaluate(rows, now)
        if not self.alerts:
            return
        alerts = list(self.alerts.values())
        rows = np.array([self._groups.find(_key(alert.group)) for alert in alerts], np.int64)
        for alert, total in zip(alerts, self._totals(rows).tolist(), strict=True):
            if total >= self._threshold:
                alert.last_true, alert.count = now, max(alert.count, total)
                if alert.status == "pending" and now - alert.since >= self._hold_s and not self._fire(alert, now):
                    self._store(alert.group, None)
            elif alert.status == "pending":
                del self.alerts[alert.group]
                self._store(alert.group, None)
        for alert in self._expired(now):
            self._resolve(alert, now)

    def _take_amounts(self, sums: WindowSums, deltas: Iterable[Delta], now: float, *, replayed: bool) -> None:
        by_bucket: defaultdict[int, defaultdict[int, int]] = defaultdict(lambda: defaultdict(int))
        for delta in deltas:
            in_time = self._in_time(delta.amounts, now)
            row = self._row_of(delta) if in_time else None
            if row is not None:
                for bucket, amount in in_time:
                    by_bucket[bucket][row] += amount
        for bucket, amounts in sorted(by_bucket.items()):
            rows = np.fromiter(amounts.keys(), np.int64, len(amounts))
            sums.add(rows, bucket, np.fromiter(amounts.values(), np.int64, len(amounts)))
            self._changed(rows, bucket, now, replayed=replayed)

    def _take_values(self, values: DistinctValues, deltas: Iterable[Delta], now: float, *, replayed: bool) -> None:
        by_bucket: defaultdict[int, list[tuple[int, int]]] = defaultdict(list)
        for delta in deltas:
            seconds_of = dict.fromkeys(delta.distinct.values(), 0)
            in_time = {bucket for bucket, _ in self._in_time(seconds_of, now)}
            row = self._row_of(delta) if in_time else None
            if row is not None:
                for value, second in delta.distinct.items():
                    bucket = self._bucket(second, now)
                    if bucket in in_time:
                        by_bucket[bucket].append((row, value))
        evicted_before = values.evicted
        for bucket, pairs in sorted(by_bucket.items()):
            for row, value in pairs:
                values.add(row, bucket, value)
            self._changed(np.unique(np.array([row for row, _ in pairs], np.int64)), bucket, now, replayed=replayed)
        if values.evicted > evicted_before:
            self._count(self.rule.name, "evicted_values", values.evicted - evicted_before)

    def _in_time(self, amounts: Mapping[int, int], now: float) -> list[tuple[int, int]]:
        """Return buckets and amounts, without those that are late, which are counted."""
        first = self._clock.head - self._clock.columns
        found = [(self._bucket(second, now), amount) for second, amount in amounts.items()]
        in_time = [one for one in found if one[0] > first]
        if len(in_time) < len(found):
            self._count(self.rule.name, "late", len(found) - len(in_time))
        return in_time

    def _bucket(self, second: int, now: float) -> int:
        # A node whose clock is ahead must not make its records count for longer than others.
        return self._clock.bucket(min(second, now))

    def _changed(self, rows: Ints, bucket: int, now: float, *, replayed: bool) -> None:
        self._clock.observe(rows, np.full(len(rows), bucket, np.int64))
        if replayed:
            # The replay may hold more of the same window.
            self._unevaluated.update(rows.tolist())
        else:
            self._evaluate(rows, now)

    def _evaluate(self, rows: Ints, now: float) -> None:
        """Compare the totals of these rows with the threshold, and make alerts."""
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
            started = min(now, float(self._clock.bucket_start(end)))
            alert = self.alerts[group] = Alert(group, "pending", now, started, now, total)
            if self._hold_s:
                self._store(group, to_state(self.rule, alert))
            else:
                self._fire(alert, now)

    def _totals(self, rows: Ints) -> Ints:
        if self._values is not None:
            return self._values.totals(rows)
        assert self._sums is not None  # noqa: S101 - one of the two
        return self._sums.totals(rows)

    def _row_of(self, delta: Delta) -> int | None:
        evicted_before = self._groups.evicted
        row = self._groups.use(_key(delta.group))
        if self._groups.evicted > evicted_before:
            self._count(self.rule.name, "evicted_groups", self._groups.evicted - evicted_before)
        if row is None:
            self._count(self.rule.name, "refused_groups", 1)
        else:
            self._keep_examples(delta)
        return row

    def _advance(self, now: float) -> None:
        head = self._clock.bucket(now)
        before, values = self._clock.head, self._values
        if head > before:
            self._clock.head = head
            if self._sums is not None:
                self._sums.advance(before, head)
        elif head < before:
            self._clock.set_back(head)
            if self._sums is not None:
                self._sums.set_back(before, head)
            if values is not None:
                values.set_back(head)

    def _grow(self, rows: int) -> None:
        self._clock.grow(rows)
        if self._sums is not None:
            self._sums.grow(rows)
        if self._values is not None:
            self._values.grow(rows)

    def _clear(self, rows: Ints) -> None:
        self._clock.clear(rows)
        self._unevaluated.difference_update(rows.tolist())
        if self._sums is not None:
            self._sums.clear(rows)
        if self._values is not None:
            self._values.clear(rows)


def _key(group: Sequence[str]) -> str:
    return "\0".join(group)
