"""Rules of the kind ``after_change``: a group's records begin shortly after a policy change that can have caused them.

THEORY OF OPERATION

Example: ``after_change: {within: 2m, quiet: 10m}``. At 12:00:00 somebody deletes NetworkPolicy shop/allow-db, and at
12:00:03 the first denied connections of shop/web arrive.

1. The group shop/web had no records for 10 minutes, so its records *begin* at 12:00:03. Had it been denied at 11:55,
   the change could not be the cause.
2. Candidates are the changes from ``within`` before the begin to 5 s after it. After it, because a node may enforce a
   change before this worker observes it, and because clocks differ.
3. Candidates are ranked: best a policy that the records name; then one in the pod's namespace that no record names,
   because it was deleted or no longer selects the pod; then a ClusterNetworkPolicy. A policy that was created and is
   not named by the records is not a candidate. Among equal candidates the latest wins.
4. Records and changes may arrive in either order. Both are remembered, and each arrival searches for the other.
5. All groups that the same change has caused share one alert (:mod:`streams.alerts.change_alert`). Each begin belongs
   to at most one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from msgspec.structs import replace

from enrich.model import NetworkPolicy
from streams.alerts.alert import Alert, AlertState, firing_record, to_state
from streams.alerts.change_alert import COLLECT_S, GROUP_LENGTH, ChangeAlert, group_of, visible_group
from streams.alerts.counting import MAX_EXAMPLES
from streams.alerts.deltas import Delta
from streams.alerts.digest import is_digest
from streams.alerts.example import decode_example
from streams.alerts.model import AlertRule
from streams.alerts.outbox import Outbox
from streams.alerts.policy_changes import PolicyChange
from streams.alerts.tracker import LATENESS_S, CountEvent, Tracker
from streams.config.fields import seconds

_MAX_CHANGES: Final = 10_000
"""Changes remembered; the latest ones are kept."""
_MAX_AT_ONCE: Final = 4
"""Alerts that wait or fire, so many times the most that may fire."""
_SKEW_S: Final = 5.0
"""A node's clock may show a record this long before the worker's clock shows the change that caused it."""


@dataclass(slots=True)
class _Episode:
    """A group's records since they began, after a quiet time."""

    started: float
    latest: float
    amount: int
    policies: list[str]
    namespace: str
    cause: tuple[str, ...] | None = None
    """The group of the alert that this episode belongs to."""


class AfterChangeTracker(Tracker):
    """Keeps the current episode of each group, and the recent changes of policies."""

    def __init__(self, rule: AlertRule, limit: int, out: Outbox, count: CountEvent) -> None:
        super().__init__(rule, out, count)
        assert rule.after_change is not None  # noqa: S101 - its kind
        self._within_s, self._quiet_s = seconds(rule.after_change.within), seconds(rule.after_change.quiet)
        self._threshold = rule.after_change.threshold
        self._limit = limit
        # Ordered by their last delta, the oldest first.
        self._episodes: dict[tuple[str, ...], _Episode] = {}
        self._changes: list[PolicyChange] = []
        self._of_changes: dict[tuple[str, ...], ChangeAlert] = {}

    @property
    def history_s(self) -> int:
        return self._quiet_s + self._within_s + LATENESS_S

    @property
    def groups(self) -> int:
        return len(self._episodes)

    def clock_set_back(self, now: float) -> None:
        super().clock_set_back(now)
        for episode in self._episodes.values():
            episode.started, episode.latest = min(episode.started, now), min(episode.latest, now)
        self._changes = [replace(change, at=min(change.at, now)) for change in self._changes]

    def policy_changed(self, change: PolicyChange, now: float) -> None:
        self._changes = [one for one in self._changes if one.at > now - self.history_s]
        self._changes = [*self._changes, change][-_MAX_CHANGES:]
        for group, episode in self._episodes.items():
            if episode.started >= change.at - _SKEW_S:
                self._evaluate(group, episode, now)

    def accepts(self, state: AlertState) -> bool:
        is_own = (len(state.group) == GROUP_LENGTH and state.status != "known") or is_digest(state.group)
        return state.version == self.version and is_own

    def load(self, name: str, state: AlertState, now: float) -> None:
        super().load(name, state, now)
        alert = self.alerts.get(tuple(state.group))
        if alert is not None:
            alert.policy, alert.change, alert.changed_by = state.group[1], state.change, state.changed_by
            self._of_changes[alert.group] = ChangeAlert(alert)

    def take(self, deltas: Sequence[Delta], now: float, *, replayed: bool) -> None:
        for delta in deltas:
            self._keep_examples(delta)
            group = tuple(delta.group)
            episode = self._add(group, delta, now)
            if episode.cause is None:
                self._evaluate(group, episode, now, replayed=replayed)
            elif (found := self._of_changes.get(episode.cause)) is not None:
                found.add(group, episode.amount, episode.started, episode.latest)

    def tick(self, now: float) -> None:
        for found in list(self._of_changes.values()):
            alert = found.alert
            if alert.status == "pending" and now - alert.since >= COLLECT_S:
                alert.examples = self._examples_of(found)
                if not self._fire(alert, now):
                    del self._of_changes[alert.group]
                    self._store(alert.group, None)
        for alert in self._expired(now):
            if alert.status == "firing":
                alert.record = self._of_changes.pop(alert.group).ended(self.rule)
                self._resolve(alert, now)

    def _add(self, group: tuple[str, ...], delta: Delta, now: float) -> _Episode:
        episode = self._episodes.pop(group, None)
        for second, amount in sorted(delta.amounts.items()):
            at = min(second, now)
            if episode is None or at - episode.latest > self._quiet_s:
                episode = _Episode(at, at, 0, [], "")
            episode.latest, episode.amount = max(episode.latest, at), episode.amount + amount
        assert episode is not None  # noqa: S101 - a delta has an amount
        episode.policies, episode.namespace = delta.policies, delta.namespace
        self._episodes[group] = episode
        if len(self._episodes) > self._limit:
            self._evict(now)
        return episode

    def _evaluate(self, group: tuple[str, ...], episode: _Episode, now: float, *, replayed: bool = False) -> None:
        """Join the alert of the change that can have caused the episode, if any can.

        ``replayed``: the episode began before a restart, and no alert begins because of it."""
        if episode.cause is not None or episode.amount < self._threshold or episode.started < now - self.history_s:
            return
        near = [one for one in self._changes if -_SKEW_S <= episode.started - one.at <= self._within_s]
        change = max(
            (one for one in near if _rank(one, episode)), key=lambda one: (_rank(one, episode), one.at), default=None
        )
        if change is None:
            return
        found = next((one for one in self._of_changes.values() if one.is_of(group[0], change)), None)
        if found is None and not replayed:
            found = self._begin(group[0], change, episode, now)
        if found is not None:
            episode.cause = found.alert.group
            found.add(group, episode.amount, episode.started, episode.latest)

    def _begin(self, cluster: str, change: PolicyChange, episode: _Episode, now: float) -> ChangeAlert:
        """Begin the alert of a change. Too many at once are counted in the digest."""
        alert = Alert(group_of(self.rule, cluster, change, self.home), "pending", now, episode.started, now)
        alert.policy, alert.change, alert.changed_by = change.policy, change.what, change.by
        found = ChangeAlert(alert)
        if len(self._of_changes) >= _MAX_AT_ONCE * self._max_firing:
            self._count(self.rule.name, "digested", 1)
            self.digest.add(alert, now, self._out)
        else:
            self.alerts[alert.group] = alert
            self._of_changes[alert.group] = found
            self._store(alert.group, to_state(self.rule, alert))
        return found

    def _examples_of(self, found: ChangeAlert) -> list[bytes]:
        """Return the latest example of each of the worst pairs."""
        return [self._examples[pair][0] for pair, _ in found.worst() if self._examples.get(pair)][:MAX_EXAMPLES]

    def _record(self, alert: Alert, now: float) -> dict[str, Any]:
        found = self._of_changes[alert.group]
        values = found.values(self.rule, [decode_example(one) for one in alert.examples])
        record = firing_record(self.rule, alert, now, visible_group(alert.group), values)
        return {**record, **found.fields(self.rule)}

    def _evict(self, now: float) -> None:
        """Forget groups that have been quiet for so long that nothing depends on them; then evict the oldest 2 %."""
        quiet = [group for group, episode in self._episodes.items() if now - episode.latest > self.history_s]
        for group in quiet:
            del self._episodes[group]
        evicted = list(self._episodes)[: max(0, len(self._episodes) - self._limit + self._limit // 50)]
        if len(self._episodes) > self._limit:
            for group in evicted:
                del self._episodes[group]
            self._count(self.rule.name, "evicted_groups", len(evicted))


def _rank(change: PolicyChange, episode: _Episode) -> int:
    """Return how likely the change caused the episode, from 3 (named by the records) to 0 (it did not)."""
    if change.policy in episode.policies:
        return 3
    if change.what == "created":
        return 0  # A new policy that decided would be named.
    if change.kind != NetworkPolicy.__name__:
        return 1
    return 2 if change.namespace == episode.namespace else 0
