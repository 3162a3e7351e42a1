"""Rules of the kind `after_change`: a group's records began right after a policy changed that may be why.

A policy may be why if the records name it. If it was deleted, or does not select the pod any more, no record does: then
it may be why if it is of the pod's namespace, or of the whole cluster. A record may come before the change is heard of:
both are remembered for a while, and each looks for the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from enrich.model import ClusterNetworkPolicy
from streams.alerts.alert import Alert
from streams.alerts.deltas import Delta
from streams.alerts.model import Rule
from streams.alerts.policy_changes import Change
from streams.alerts.tracker import LATENESS_S, Count, Outbox, Tracker
from streams.config.fields import seconds

_SKEW_S: Final = 5.0
"""A node may enforce a change that much before we hear of it, by its own clock."""


@dataclass(slots=True)
class _Seen:
    """A group's records since they began."""

    began: float
    latest: float
    amount: int
    policies: list[str]
    namespace: str
    told: bool = False
    """That they began has had its alert."""


class AfterTracker(Tracker):
    """Groups by when their records began; changes by when they were heard of."""

    def __init__(self, rule: Rule, most: int, out: Outbox, count: Count) -> None:
        super().__init__(rule, out, count)
        assert rule.after_change is not None  # noqa: S101 - its kind
        self._within_s, self._quiet_s = seconds(rule.after_change.within), seconds(rule.after_change.quiet)
        self._threshold = rule.after_change.threshold
        self._most = most
        # In the order in which they were heard of last.
        self._groups: dict[tuple[str, ...], _Seen] = {}
        self._changes: list[Change] = []

    @property
    def span_s(self) -> int:
        return self._quiet_s + self._within_s + LATENESS_S

    @property
    def groups(self) -> int:
        return len(self._groups)

    def changed(self, change: Change, now: float) -> None:
        self._changes = [one for one in self._changes if one.at > now - self.span_s]
        self._changes.append(change)
        for group, seen in self._groups.items():
            if seen.began >= change.at - _SKEW_S:
                self._look(group, seen, now)

    def take(self, deltas: Sequence[Delta], now: float, *, replayed: bool) -> None:
        for delta in deltas:
            self._remember(delta)
            group = tuple(delta.group)
            seen = self._add(group, delta, now)
            alert = self.alerts.get(group)
            if alert is not None:
                alert.last_true = max(alert.last_true, seen.latest)
                seen.told = True
            elif not replayed:
                self._look(group, seen, now)

    def tick(self, now: float) -> None:
        for alert in self._over(now):
            self._resolve(alert, now)

    def _add(self, group: tuple[str, ...], delta: Delta, now: float) -> _Seen:
        seen = self._groups.pop(group, None)
        for second, amount in sorted(delta.amounts.items()):
            at = min(second, now)
            if seen is None or at - seen.latest > self._quiet_s:
                seen = _Seen(at, at, 0, [], "")
            seen.latest, seen.amount = max(seen.latest, at), seen.amount + amount
        assert seen is not None  # noqa: S101 - a delta has an amount
        seen.policies, seen.namespace = delta.policies, delta.namespace
        self._groups[group] = seen
        if len(self._groups) > self._most:
            self._shrink(now)
        return seen

    def _look(self, group: tuple[str, ...], seen: _Seen, now: float) -> None:
        """Whether a change may be why they began."""
        if seen.told or seen.amount < self._threshold or seen.began < now - self.span_s:
            return
        found = [one for one in self._changes if -_SKEW_S <= seen.began - one.at <= self._within_s]
        why = max((one for one in found if _rank(one, seen)), key=lambda one: (_rank(one, seen), one.at), default=None)
        if why is not None:
            seen.told = True
            alert = Alert(group, "firing", now, seen.began, seen.latest, seen.amount)
            alert.policy, alert.change = why.policy, why.what
            self._fire(alert, now)

    def _shrink(self, now: float) -> None:
        """Those that are quiet need not be known any more; past the bound those that were heard of longest ago go."""
        quiet = [group for group, seen in self._groups.items() if now - seen.latest > self.span_s]
        for group in quiet:
            del self._groups[group]
        dropped = list(self._groups)[: max(0, len(self._groups) - self._most + self._most // 50)]
        if len(self._groups) > self._most:
            for group in dropped:
                del self._groups[group]
            self._count(self.rule.name, "dropped_groups", len(dropped))


def _rank(change: Change, seen: _Seen) -> int:
    """How likely a change is why: named by the records, of the pod's namespace, of the whole cluster, or not at all."""
    if change.policy in seen.policies:
        return 3
    if change.what == "created":
        return 0  # the records would name it
    if change.kind == ClusterNetworkPolicy.__name__:
        return 1
    return 2 if change.namespace == seen.namespace else 0
