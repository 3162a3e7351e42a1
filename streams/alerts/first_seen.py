"""Rules of the kind `first`: a group that was never seen before. Who was seen is kept in the state, up to a bound."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import Final

from streams.alerts.alert import Alert, State
from streams.alerts.deltas import Delta, fingerprint
from streams.alerts.model import Rule
from streams.alerts.tracker import LATENESS_S, Count, Outbox, Tracker
from streams.config.fields import seconds

_DAY_S: Final = 86_400


class FirstTracker(Tracker):
    """Fingerprints, and when each was seen last, to the day. Past the bound the one goes that was seen longest ago."""

    def __init__(self, rule: Rule, most: int, out: Outbox, count: Count) -> None:
        super().__init__(rule, out, count)
        assert rule.first is not None  # noqa: S101 - its kind
        self._remember_s, self._fresh_s = seconds(rule.first.remember), seconds(rule.first.fresh)
        self._most = most
        self._seen: dict[str, float] = {}

    @property
    def span_s(self) -> int:
        return LATENESS_S

    @property
    def groups(self) -> int:
        return len(self._seen)

    def load(self, name: str, state: State, now: float) -> None:
        self._seen[name] = state.seen
        if state.status == "firing":
            super().load(name, state, now)

    def take(self, deltas: Sequence[Delta], now: float, *, replayed: bool) -> None:
        if replayed:
            return  # what came of them is in the state
        for delta in deltas:
            self._remember(delta)
            self._take(delta, now)

    def tick(self, now: float) -> None:
        for alert in self._over(now):
            name = fingerprint(self.rule.name, alert.group)
            self._resolve(alert, now, self._known(self._seen.get(name, now)))

    def _take(self, delta: Delta, now: float) -> None:
        group = tuple(delta.group)
        name = fingerprint(self.rule.name, group)
        first, last = min(delta.amounts), min(max(delta.amounts), now)
        before = self._seen.get(name)
        alert = self.alerts.get(group)
        if alert is not None:
            alert.last_true = max(alert.last_true, last)
        if before is not None and last - before < _DAY_S:
            return
        self._seen[name] = last
        if before is None:
            self._shrink()
        if alert is None and (before is None or last - before > self._remember_s):
            if now - last <= self._fresh_s:
                amount = sum(delta.amounts.values())
                self._fire(Alert(group, "firing", now, min(first, now), last, amount), now, last)
                return
            self._count(self.rule.name, "late", 1)
        if alert is None:
            self._out.states.append((self.rule.name, name, self._known(last)))

    def _known(self, seen: float) -> State:
        return State(1, self.rule.name, self.version, [], "known", seen=seen)

    def _shrink(self) -> None:
        """Some at once: to look for the oldest is to look at all."""
        if len(self._seen) <= self._most:
            return
        firing = {fingerprint(self.rule.name, group) for group in self.alerts}
        known = (name for name in self._seen if name not in firing)
        oldest = heapq.nsmallest(max(1, self._most // 50), known, key=self._seen.__getitem__)
        for name in oldest:
            del self._seen[name]
            self._out.states.append((self.rule.name, name, None))
        self._count(self.rule.name, "dropped_groups", len(oldest))
