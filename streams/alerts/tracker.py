"""What the kinds of rules share: who has an alert, what is told of it, and examples for those that may get one."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from streams.alerts.alert import Alert, State, alert_of, record_of, resolved_of, state_of
from streams.alerts.counting import EXAMPLES
from streams.alerts.deltas import Delta, fingerprint, version_of
from streams.alerts.model import Rule
from streams.alerts.policy_changes import Change
from streams.config.fields import seconds

LATENESS_S: Final = 7
"""A deny window (5 s) and 2 s: a count comes out so much after its time, with no fault anywhere."""
_EXAMPLED: Final = 2000
"""Groups without an alert of which examples are kept."""

Count = Callable[[str, str, int], None]
"""Is told a rule, what happened, and how often: late, dropped_groups, refused_groups, squeezed, stale."""


@dataclass(slots=True)
class Outbox:
    """What is to be written, in order."""

    alerts: list[dict[str, Any]] = field(default_factory=list)
    """Records of ``<prefix>.alerts``."""
    states: list[tuple[str, str, State | None]] = field(default_factory=list)
    """Rule, fingerprint of the group, and what is to be kept of it; None: nothing any more."""


class Tracker:
    """One rule at work. ``now`` is always the wall clock, in seconds."""

    def __init__(self, rule: Rule, out: Outbox, count: Count) -> None:
        self.rule, self.version = rule, version_of(rule)
        self.alerts: dict[tuple[str, ...], Alert] = {}
        self._out, self._count = out, count
        self._resolve_s = seconds(rule.resolve_after)
        self._examples: OrderedDict[tuple[str, ...], list[bytes]] = OrderedDict()

    @property
    def span_s(self) -> int:
        """How far back deltas are to be read when it begins."""
        raise NotImplementedError

    @property
    def groups(self) -> int:
        """How many it knows."""
        raise NotImplementedError

    def load(self, name: str, state: State, now: float) -> None:  # noqa: ARG002 - for those that remember more
        """What was kept of a group; ``name``: its fingerprint."""
        self.alerts[tuple(state.group)] = alert_of(state, now)

    def take(self, deltas: Sequence[Delta], now: float, *, replayed: bool) -> None:
        """More of some groups. ``replayed``: it was told before, and what came of it is known."""
        raise NotImplementedError

    def tick(self, now: float) -> None:
        """Time has passed."""
        raise NotImplementedError

    def changed(self, change: Change, now: float) -> None:
        """A policy has changed."""

    def _remember(self, delta: Delta) -> None:
        """Its examples; the latest are the best."""
        if not delta.examples:
            return
        group = tuple(delta.group)
        before = self._examples.pop(group, [])
        self._examples[group] = [*(bytes(one) for one in delta.examples), *before][:EXAMPLES]
        if len(self._examples) > _EXAMPLED:
            self._examples.popitem(last=False)

    def _fire(self, alert: Alert, now: float, seen: float = 0) -> None:
        alert.status = "firing"
        alert.examples = self._examples.get(alert.group, [])
        alert.record = record_of(self.rule, alert, now)
        alert.examples = []
        self.alerts[alert.group] = alert
        self._out.alerts.append(alert.record)
        self._keep(alert.group, state_of(self.rule, alert, seen))

    def _resolve(self, alert: Alert, now: float, kept: State | None = None) -> None:
        """``kept``: what of the group is to be remembered."""
        del self.alerts[alert.group]
        assert alert.record is not None  # noqa: S101 - it fired
        self._out.alerts.append(resolved_of(alert.record, now, "quiet"))
        self._keep(alert.group, kept)

    def _keep(self, group: tuple[str, ...], state: State | None) -> None:
        self._out.states.append((self.rule.name, fingerprint(self.rule.name, group), state))

    def _over(self, now: float) -> list[Alert]:
        """Alerts whose condition has not held for long enough."""
        return [one for one in self.alerts.values() if one.last_true < now and now - one.last_true >= self._resolve_s]


def resolve_orphan(name: str, state: State, now: float, out: Outbox) -> None:
    """An alert whose rule is gone, or counts something else now. ``name``: its group's fingerprint."""
    if state.status == "firing":
        out.alerts.append(resolved_of(state.record, now, "rule_gone"))
    out.states.append((state.rule, name, None))
