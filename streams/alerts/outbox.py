"""What rules produce: records of alerts, and the states that outlive the process."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from streams.alerts.alert import AlertState, resolved_record


@dataclass(slots=True)
class Outbox:
    """Records to write, in order."""

    alerts: list[dict[str, Any]] = field(default_factory=list)
    """Records of ``<prefix>.alerts``."""
    states: list[tuple[str, str, AlertState | None]] = field(default_factory=list)
    """Rule, fingerprint of the group, and the group's new state; None deletes it."""


def resolve_orphan(name: str, state: AlertState, now: float, out: Outbox, why: str = "rule_gone") -> None:
    """Resolve an alert that nothing keeps: its rule was removed or counts something else now, or there is no room.

    ``name`` is its group's fingerprint."""
    if state.status == "firing" and state.record is not None:
        out.alerts.append(resolved_record(state.record, now, why))
    out.states.append((state.rule, name, None))
