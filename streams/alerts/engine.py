"""Evaluates all rules: takes deltas, changes of policies and the passing of time; returns alert and state records."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, Protocol

from streams.alerts.after_change import AfterChangeTracker
from streams.alerts.alert import AlertState
from streams.alerts.deltas import Delta
from streams.alerts.digest import is_digest
from streams.alerts.first_seen import FirstSeenTracker
from streams.alerts.model import KINDS, AlertRule
from streams.alerts.outbox import Outbox, resolve_orphan
from streams.alerts.policy_changes import PolicyChange
from streams.alerts.threshold import ThresholdTracker
from streams.alerts.tracker import MAX_FIRING, CountEvent, Tracker
from streams.metrics.label_values import OTHER


class MakeTracker(Protocol):
    """The constructor that all trackers share; ``limit`` is the maximum number of groups."""

    def __call__(self, rule: AlertRule, limit: int, out: Outbox, count: CountEvent) -> Tracker: ...


def tracker_registry(makers: Mapping[str, MakeTracker]) -> Mapping[str, MakeTracker]:
    """Return ``makers``, one for each kind of rule. Raises RuntimeError if they are not exactly :data:`KINDS`."""
    wrong = sorted(set(KINDS) ^ makers.keys())
    if wrong:
        raise RuntimeError(f"kinds of alert rules and trackers must be the same; only one side has {', '.join(wrong)}")
    return makers


# Checked at import: a kind without a tracker stops the process at its start, not when a rule of the kind is loaded.
_TRACKERS: Final = tracker_registry(
    {"above": ThresholdTracker, "first": FirstSeenTracker, "after_change": AfterChangeTracker}
)


class Engine:
    """The rules of one file at work. Times are seconds of the wall clock, passed in; the engine reads no clock."""

    def __init__(
        self,
        rules: Sequence[AlertRule],
        limit: int,
        count: CountEvent,
        *,
        max_firing: int = MAX_FIRING,
        learn_s: float = 0.0,
    ) -> None:
        """``limit`` is the maximum number of groups of each rule, ``max_firing`` of its alerts that fire at once. A new
        rule about new groups makes groups known without an alert for ``learn_s``."""
        self._out = Outbox()
        self._count = count
        self._max_firing, self._learn_s = max_firing, learn_s
        self._now = float("-inf")
        self.trackers: dict[str, Tracker] = {
            rule.name: _TRACKERS[rule.kind](rule, limit, self._out, count) for rule in rules
        }
        self.own(lambda _: True)

    @property
    def history_s(self) -> int:
        """How many seconds of deltas must be read again when the engine starts."""
        return max((tracker.history_s for tracker in self.trackers.values()), default=0)

    def own(self, owns: Callable[[str], bool], home: Callable[[str], int] = lambda _: 0) -> None:
        """Say which states are in partitions of this worker, and in which one each is, by the fingerprint of the
        group."""
        for tracker in self.trackers.values():
            tracker.limit_firing(self._max_firing, owns)
            tracker.home = home

    def groups(self) -> dict[str, int]:
        """Return the number of groups of each rule."""
        return {name: tracker.groups for name, tracker in self.trackers.items()}

    def firing(self) -> dict[str, int]:
        """Return the number of firing alerts of each rule."""
        return {name: tracker.firing for name, tracker in self.trackers.items()}

    def learn(self, since_of: Mapping[tuple[str, str], float], now: float) -> dict[tuple[str, str], float]:
        """Let the rules about new groups learn, each by name and version, and return since when each does.

        A rule that is not in ``since_of`` is new, unless it knows groups."""
        found = {}
        for name, tracker in self.trackers.items():
            if tracker.rule.first is not None:
                since = since_of.get((name, tracker.version), 0.0 if tracker.groups else now)
                found[name, tracker.version] = min(since, now)
                tracker.learn(min(since, now) + self._learn_s)
        return found

    def load(self, name: str, state: AlertState, now: float) -> None:
        """Restore the state of a group; ``name`` is its fingerprint. An alert whose rule is gone is resolved."""
        tracker = self.trackers.get(state.rule)
        if tracker is None or not tracker.accepts(state):
            resolve_orphan(name, state, now, self._out)
        elif is_digest(state.group):
            tracker.digest.load(state, now)
        else:
            tracker.load(name, state, now)

    def take(self, deltas: Iterable[Delta], now: float, *, replayed: bool = False) -> None:
        """Process deltas. ``replayed``: they were processed before a restart, and alerts that resulted from them are
        part of the state that was loaded."""
        self._observe(now)
        by_rule: defaultdict[str, list[Delta]] = defaultdict(list)
        for delta in deltas:
            by_rule[delta.rule].append(delta)
        for name, members in by_rule.items():
            tracker = self.trackers.get(name)
            current = [] if tracker is None else [one for one in members if tracker.counts(one)]
            if len(current) < len(members) and not replayed:
                # A record may name any rule; only those in force have a name in the metrics.
                self._count(name if tracker is not None else OTHER, "stale", len(members) - len(current))
            if tracker is not None and current:
                tracker.take(current, now, replayed=replayed)

    def policy_changed(self, change: PolicyChange, now: float) -> None:
        """Process a change of a policy."""
        self._observe(now)
        for tracker in self.trackers.values():
            tracker.policy_changed(change, now)

    def changes_dropped(self, number: int) -> None:
        """Count changes of policies that were dropped, for each rule that may miss an alert because of them."""
        for name, tracker in self.trackers.items():
            if number and tracker.rule.after_change is not None:
                self._count(name, "evicted_changes", number)

    def tick(self, now: float) -> None:
        """Evaluate conditions that depend on the passing of time."""
        self._observe(now)
        for tracker in self.trackers.values():
            tracker.tick(now)
            tracker.digest.tick(now, self._out)

    def drain(self) -> Outbox:
        """Return the records to write, and empty the outbox."""
        found = Outbox(self._out.alerts[:], self._out.states[:])
        self._out.alerts.clear()
        self._out.states.clear()
        return found

    def _observe(self, now: float) -> None:
        if now < self._now:
            for tracker in self.trackers.values():
                tracker.clock_set_back(now)
        self._now = now
