"""What the trackers of all kinds of rules share: the alerts of a rule, their records, and examples for new alerts."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from streams.alerts.alert import Alert, AlertState, firing_record, from_state, resolved_record, to_state
from streams.alerts.counting import MAX_EXAMPLES
from streams.alerts.deltas import Delta, fingerprint, version_of
from streams.alerts.model import AlertRule
from streams.alerts.policy_changes import PolicyChange
from streams.config.fields import seconds

LATENESS_S: Final = 7
"""How long after its own time a count may arrive without any fault: the kernel reports the count of a denied flow at
the end of a window of 5 s, and 2 s pass on the way."""
_MAX_GROUPS_WITH_EXAMPLES: Final = 2000
"""Groups without an alert for which examples are kept in memory."""

CountEvent = Callable[[str, str, int], None]
"""Called with a rule's name, an event and how often it happened. Events: late, evicted_groups, refused_groups,
evicted_values, stale."""


@dataclass(slots=True)
class Outbox:
    """Records to write, in order."""

    alerts: list[dict[str, Any]] = field(default_factory=list)
    """Records of ``<prefix>.alerts``."""
    states: list[tuple[str, str, AlertState | None]] = field(default_factory=list)
    """Rule, fingerprint of the group, and the group's new state; None deletes it."""


class Tracker:
    """Evaluates one rule over the deltas of its groups. ``now`` is always the wall clock, in seconds."""

    def __init__(self, rule: AlertRule, out: Outbox, count: CountEvent) -> None:
        self.rule, self.version = rule, version_of(rule)
        self.alerts: dict[tuple[str, ...], Alert] = {}
        self._out, self._count = out, count
        self._resolve_s = seconds(rule.resolve_after)
        self._examples: OrderedDict[tuple[str, ...], list[bytes]] = OrderedDict()

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

    def load(self, name: str, state: AlertState, now: float) -> None:  # noqa: ARG002 - for those that remember more
        """Restore the state of a group; ``name`` is its fingerprint."""
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

    def _keep_examples(self, delta: Delta) -> None:
        """Remember the delta's examples, the latest first."""
        if not delta.examples:
            return
        group = tuple(delta.group)
        before = self._examples.pop(group, [])
        self._examples[group] = [*(bytes(one) for one in delta.examples), *before][:MAX_EXAMPLES]
        if len(self._examples) > _MAX_GROUPS_WITH_EXAMPLES:
            self._examples.popitem(last=False)

    def _fire(self, alert: Alert, now: float, seen: float = 0) -> None:
        alert.status = "firing"
        alert.examples = self._examples.get(alert.group, [])
        alert.record = firing_record(self.rule, alert, now)
        alert.examples = []
        self.alerts[alert.group] = alert
        self._out.alerts.append(alert.record)
        self._store(alert.group, to_state(self.rule, alert, seen))

    def _resolve(self, alert: Alert, now: float, state: AlertState | None = None) -> None:
        """Resolve a firing alert. ``state`` replaces the group's state; None deletes it."""
        del self.alerts[alert.group]
        assert alert.record is not None  # noqa: S101 - it fired
        self._out.alerts.append(resolved_record(alert.record, now, "quiet"))
        self._store(alert.group, state)

    def _store(self, group: tuple[str, ...], state: AlertState | None) -> None:
        self._out.states.append((self.rule.name, fingerprint(self.rule.name, group), state))

    def _expired(self, now: float) -> list[Alert]:
        """Return the alerts whose condition has not held for ``resolve_after``."""
        return [one for one in self.alerts.values() if one.last_true < now and now - one.last_true >= self._resolve_s]


def resolve_orphan(name: str, state: AlertState, now: float, out: Outbox) -> None:
    """Resolve an alert whose rule was removed or counts something else now. ``name`` is its group's fingerprint."""
    if state.status == "firing" and state.record is not None:
        out.alerts.append(resolved_record(state.record, now, "rule_gone"))
    out.states.append((state.rule, name, None))
