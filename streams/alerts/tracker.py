"""What the trackers of all kinds of rules share: the alerts of a rule, their records, and examples for new alerts."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, Final

from streams.alerts.alert import Alert, AlertState, firing_record, from_state, resolved_record, to_state
from streams.alerts.counting import MAX_EXAMPLES
from streams.alerts.deltas import Delta, fingerprint, version_of
from streams.alerts.digest import Digest
from streams.alerts.model import AlertRule
from streams.alerts.outbox import Outbox, resolve_orphan
from streams.alerts.policy_changes import PolicyChange
from streams.config.fields import seconds

LATENESS_S: Final = 7
"""How long after its own time a count may arrive without any fault: the kernel reports the count of a denied flow at
the end of a window of 5 s, and 2 s pass on the way."""
_MAX_GROUPS_WITH_EXAMPLES: Final = 2000
"""Groups without an alert for which examples are kept in memory."""
MAX_FIRING: Final = 50
"""Default of the most alerts of a rule that fire at once."""
_MAX_LOADED: Final = 4
"""A worker may get the partitions of others, with alerts that fire, so many times the most of one worker."""

CountEvent = Callable[[str, str, int], None]
"""Called with a rule's name, an event and how often it happened. Events: late, evicted_groups, refused_groups,
evicted_values, evicted_changes, stale, learned, digested."""


class Tracker:
    """Evaluates one rule over the deltas of its groups. ``now`` is always the wall clock, in seconds."""

    def __init__(self, rule: AlertRule, out: Outbox, count: CountEvent) -> None:
        self.rule, self.version = rule, version_of(rule)
        self.alerts: dict[tuple[str, ...], Alert] = {}
        self._out, self._count = out, count
        self._resolve_s = seconds(rule.resolve_after)
        self._examples: OrderedDict[tuple[str, ...], list[bytes]] = OrderedDict()
        self._max_firing = MAX_FIRING
        self._firing = 0
        """How many of ``alerts`` fire."""
        self.digest = Digest(rule, self.version)
        self.home: Callable[[str], int] = lambda _: 0
        """Returns the partition of a state, given the fingerprint of its group."""

    def counts(self, delta: Delta) -> bool:
        """Return whether a delta is of the rule as it is now."""
        return delta.version == self.version and self._fits(delta.group)

    def accepts(self, state: AlertState) -> bool:
        """Return whether a group's state is of the rule as it is now. That of a known group is without its values."""
        return state.version == self.version and (state.status == "known" or self._fits(state.group))

    def _fits(self, group: Sequence[str]) -> bool:
        return len(group) == len(self.rule.fields)

    @property
    def history_s(self) -> int:
        """How many seconds of deltas must be read again when the tracker starts."""
        raise NotImplementedError

    @property
    def groups(self) -> int:
        """The number of groups in memory."""
        raise NotImplementedError

    @property
    def firing(self) -> int:
        """The number of alerts that fire, with the digest."""
        return self._firing + self.digest.firing

    @property
    def active(self) -> bool:
        """Whether anything depends on the passing of time."""
        return bool(self.alerts) or self.digest.active

    def limit_firing(self, limit: int, owns: Callable[[str], bool]) -> None:
        """Let at most ``limit`` alerts fire at once; more groups share the digest, in a partition that ``owns``."""
        self._max_firing, self.digest.owns = limit, owns

    def learn(self, until: float) -> None:
        """Make new groups known without an alert until then, if the rule is about new groups."""

    def load(self, name: str, state: AlertState, now: float) -> None:
        """Restore the state of a group; ``name`` is its fingerprint. Alerts beyond the bound are resolved."""
        if state.status == "firing":
            if self._firing >= _MAX_LOADED * self._max_firing:
                resolve_orphan(name, state, now, self._out, "evicted")
                return
            self._firing += 1
        self.alerts[tuple(state.group)] = from_state(state, now)

    def take(self, deltas: Sequence[Delta], now: float, *, replayed: bool) -> None:
        """Process deltas. ``replayed``: they were processed before a restart, and alerts that resulted from them are
        part of the state that was loaded."""
        raise NotImplementedError

    def tick(self, now: float) -> None:
        """Evaluate conditions that depend on the passing of time."""
        raise NotImplementedError

    def policy_changed(self, change: PolicyChange, now: float) -> None:
        """Process a change of a policy."""

    def clock_set_back(self, now: float) -> None:
        """Forget times that are in the future, because the wall clock was set back: they would silence the rule."""
        for alert in self.alerts.values():
            alert.since, alert.last_true = min(alert.since, now), min(alert.last_true, now)
        self.digest.clock_set_back(now)

    def _keep_examples(self, delta: Delta) -> None:
        """Remember the delta's examples, the latest first."""
        if not delta.examples:
            return
        group = tuple(delta.group)
        before = self._examples.pop(group, [])
        self._examples[group] = [*(bytes(one) for one in delta.examples), *before][:MAX_EXAMPLES]
        if len(self._examples) > _MAX_GROUPS_WITH_EXAMPLES:
            self._examples.popitem(last=False)

    def _fire(self, alert: Alert, now: float, seen: float = 0) -> bool:
        """Fire an alert. If too many fire, count its group in the digest, drop the alert and return False."""
        alert.examples = alert.examples or self._examples.get(alert.group, [])
        if self._firing >= self._max_firing or self.digest.active:
            self.alerts.pop(alert.group, None)
            self._count(self.rule.name, "digested", 1)
            self.digest.add(alert, now, self._out)
            return False
        alert.status = "firing"
        alert.record = self._record(alert, now)
        alert.examples = []
        self.alerts[alert.group] = alert
        self._firing += 1
        self._out.alerts.append(alert.record)
        self._store(alert.group, to_state(self.rule, alert, seen))
        return True

    def _record(self, alert: Alert, now: float) -> dict[str, Any]:
        """Return the record that an alert fires."""
        return firing_record(self.rule, alert, now)

    def _resolve(self, alert: Alert, now: float, state: AlertState | None = None) -> None:
        """Resolve a firing alert. ``state`` replaces the group's state; None deletes it."""
        del self.alerts[alert.group]
        self._firing -= 1
        assert alert.record is not None  # noqa: S101 - it fired
        self._out.alerts.append(resolved_record(alert.record, now, "quiet"))
        self._store(alert.group, state)

    def _store(self, group: tuple[str, ...], state: AlertState | None) -> None:
        self._out.states.append((self.rule.name, fingerprint(self.rule.name, group), state))

    def _expired(self, now: float) -> list[Alert]:
        """Return the alerts whose condition has not held for ``resolve_after``."""
        return [one for one in self.alerts.values() if one.last_true < now and now - one.last_true >= self._resolve_s]
