"""Rules of the kind ``first``: a group appears that was never seen before.

THEORY OF OPERATION

Example: ``group_by: [src.workload, dest.workload]``, ``first: {remember: 30d, fresh: 5m}``.

1. The tracker keeps the fingerprint of every group with the time of its latest record. The same is stored in the topic
   of alert states, so that a restart does not make every group new again.
2. If a record of an unknown group is at most 5 minutes old, the alert fires. If it is older, for example because the
   worker reads a backlog, the group becomes known without an alert and is counted as late.
3. To save writes, the stored time of a known group is renewed at most once a day.
4. A group that comes back after more than 30 days fires again.
5. More groups than WEIR_ALERT_GROUPS: the 2 % whose latest record is oldest are evicted, firing ones excepted. An
   evicted group fires again when it comes back.
6. A new rule learns quietly: for WEIR_ALERT_LEARN after its start, groups become known without an alert. Otherwise all
   the denials that a cluster has had for long would be news in the first minute.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import Final

from streams.alerts.alert import Alert, AlertState
from streams.alerts.deltas import Delta, fingerprint
from streams.alerts.model import AlertRule
from streams.alerts.outbox import Outbox
from streams.alerts.tracker import LATENESS_S, CountEvent, Tracker
from streams.config.fields import seconds

_DAY_S: Final = 86_400


class FirstSeenTracker(Tracker):
    """Keeps the fingerprints of known groups, each with the time of its latest record, to the day."""

    def __init__(self, rule: AlertRule, limit: int, out: Outbox, count: CountEvent) -> None:
        super().__init__(rule, out, count)
        assert rule.first is not None  # noqa: S101 - its kind
        self._remember_s, self._fresh_s = seconds(rule.first.remember), seconds(rule.first.fresh)
        self._limit = limit
        self._seen: dict[str, float] = {}
        self._learn_until = float("-inf")

    @property
    def history_s(self) -> int:
        return LATENESS_S

    @property
    def groups(self) -> int:
        return len(self._seen)

    def learn(self, until: float) -> None:
        self._learn_until = until

    def clock_set_back(self, now: float) -> None:
        super().clock_set_back(now)
        self._seen = {name: min(seen, now) for name, seen in self._seen.items()}

    def load(self, name: str, state: AlertState, now: float) -> None:
        self._seen[name] = min(state.seen, now)
        if state.status == "firing":
            super().load(name, state, now)
            if tuple(state.group) not in self.alerts:
                self._out.states.append((self.rule.name, name, self._known_state(self._seen[name])))
        self._evict()

    def take(self, deltas: Sequence[Delta], now: float, *, replayed: bool) -> None:
        if replayed:
            return  # The loaded state has their effect already.
        for delta in deltas:
            self._keep_examples(delta)
            self._take(delta, now)

    def tick(self, now: float) -> None:
        for alert in self._expired(now):
            name = fingerprint(self.rule.name, alert.group)
            self._resolve(alert, now, self._known_state(self._seen.get(name, now)))

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
            self._evict()
        if alert is None and (before is None or last - before > self._remember_s):
            if now < self._learn_until:
                self._count(self.rule.name, "learned", 1)
            elif now - last > self._fresh_s:
                self._count(self.rule.name, "late", 1)
            else:
                amount = sum(delta.amounts.values())
                if self._fire(Alert(group, "firing", now, min(first, now), last, amount), now, last):
                    return
        if alert is None:
            self._out.states.append((self.rule.name, name, self._known_state(last)))

    def _known_state(self, seen: float) -> AlertState:
        return AlertState(1, self.rule.name, self.version, [], "known", seen=seen)

    def _evict(self) -> None:
        """Evict 2 % at once if the limit is exceeded, because finding the oldest means looking at all."""
        if len(self._seen) <= self._limit:
            return
        firing = {fingerprint(self.rule.name, group) for group in self.alerts}
        candidates = (name for name in self._seen if name not in firing)
        oldest = heapq.nsmallest(max(1, self._limit // 50), candidates, key=self._seen.__getitem__)
        for name in oldest:
            del self._seen[name]
            self._out.states.append((self.rule.name, name, None))
        self._count(self.rule.name, "evicted_groups", len(oldest))
