"""All rules at work: deltas, changes of policies and the passing of time in; records of alerts and of state out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Final

from streams.alerts.after_change import AfterTracker
from streams.alerts.alert import State
from streams.alerts.deltas import Delta
from streams.alerts.first_seen import FirstTracker
from streams.alerts.model import Rule
from streams.alerts.policy_changes import Change
from streams.alerts.threshold import AboveTracker
from streams.alerts.tracker import Count, Outbox, Tracker, resolve_orphan

_KINDS: Final[dict[str, type[AboveTracker] | type[FirstTracker] | type[AfterTracker]]] = {
    "above": AboveTracker,
    "first": FirstTracker,
    "after_change": AfterTracker,
}


class Engine:
    """The rules of one file. Times are seconds of the wall clock; nothing here looks at a clock."""

    def __init__(self, rules: Sequence[Rule], most: int, count: Count) -> None:
        """``most``: groups of a rule."""
        self._out = Outbox()
        self._count = count
        self.trackers: dict[str, Tracker] = {
            rule.name: _KINDS[rule.kind](rule, most, self._out, count) for rule in rules
        }

    @property
    def span_s(self) -> int:
        """How far back deltas are to be read when it begins."""
        return max((tracker.span_s for tracker in self.trackers.values()), default=0)

    @property
    def wants_changes(self) -> bool:
        """Whether a rule is about changes of policies."""
        return any(isinstance(tracker, AfterTracker) for tracker in self.trackers.values())

    def groups(self) -> dict[str, int]:
        """How many each rule has."""
        return {name: tracker.groups for name, tracker in self.trackers.items()}

    def firing(self) -> dict[str, int]:
        """How many alerts of each rule fire."""
        return {name: _firing(tracker) for name, tracker in self.trackers.items()}

    def load(self, name: str, state: State, now: float) -> None:
        """What was kept of a group; ``name``: its fingerprint."""
        tracker = self.trackers.get(state.rule)
        if tracker is None or tracker.version != state.version:
            resolve_orphan(name, state, now, self._out)
        else:
            tracker.load(name, state, now)

    def take(self, deltas: Iterable[Delta], now: float, *, replayed: bool = False) -> None:
        """More of some groups. ``replayed``: it was told before, and what came of it is known."""
        by_rule: defaultdict[str, list[Delta]] = defaultdict(list)
        for delta in deltas:
            by_rule[delta.rule].append(delta)
        for name, members in by_rule.items():
            tracker = self.trackers.get(name)
            known = [] if tracker is None else [one for one in members if one.version == tracker.version]
            if len(known) < len(members) and not replayed:
                self._count(name, "stale", len(members) - len(known))
            if tracker is not None and known:
                tracker.take(known, now, replayed=replayed)

    def changed(self, change: Change, now: float) -> None:
        """A policy has changed."""
        for tracker in self.trackers.values():
            tracker.changed(change, now)

    def tick(self, now: float) -> None:
        """Time has passed."""
        for tracker in self.trackers.values():
            tracker.tick(now)

    def drain(self) -> Outbox:
        """What is to be written; then nothing is."""
        found = Outbox(self._out.alerts[:], self._out.states[:])
        self._out.alerts.clear()
        self._out.states.clear()
        return found


def _firing(tracker: Tracker) -> int:
    return sum(alert.status == "firing" for alert in tracker.alerts.values())
