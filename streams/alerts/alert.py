"""One alert: its state while it lasts, the records of its changes of state, and what outlives the process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import msgspec
import orjson

from enrich.wire.bounds import Seconds
from streams.alerts.deltas import GroupValue, fingerprint, version_of
from streams.alerts.example import Example, decode_example
from streams.alerts.fields import label_name
from streams.alerts.model import AlertRule
from streams.alerts.template import render
from streams.timestamps import rfc3339

SCHEMA_VERSION: Final = 1
Status = Literal["pending", "firing", "known"]
_TEXTS: Final = ("id", "rule", "fingerprint", "status", "timestamp", "startsAt")
"""Fields of an alert's record that are always texts."""


@dataclass(slots=True)
class Alert:
    """A rule's condition holds for a group, or held until a moment ago. Times are seconds since the epoch."""

    group: tuple[str, ...]
    status: Status
    since: float
    """When the condition was first found to hold, by the worker's clock."""
    started: float
    """When the condition began to hold, by the records' own time."""
    last_true: float
    """When the condition was last found to hold."""
    count: int = 0
    examples: list[bytes] = field(default_factory=list)
    """Shortened records as JSON."""
    policy: str = ""
    change: str = ""
    changed_by: str = ""
    record: dict[str, Any] | None = None
    """The record that was written when the alert fired."""


class AlertState(msgspec.Struct, omit_defaults=True):
    """The value of a record of ``<prefix>.alerts.state``; its key is ``<rule>/<fingerprint>``."""

    v: int
    rule: str
    version: str
    group: list[GroupValue]
    status: Status
    since: Seconds = 0
    started: Seconds = 0
    record: dict[str, Any] | None = None
    """The record that was written when the alert fired."""
    seen: Seconds = 0
    """Only for first rules: the time of the group's latest record, to the day."""
    change: str = ""
    """Only for after_change rules: what happened to the policy."""
    changed_by: str = ""
    """Only for after_change rules: who made the change, if it is known."""

    def __post_init__(self) -> None:
        if self.status != "firing":
            return
        if self.record is None or not all(isinstance(self.record.get(name), str) for name in _TEXTS):
            raise ValueError(f"an alert that fires has a record with {', '.join(_TEXTS)}")
        # The record is written once more when the alert is resolved.
        msgspec.convert([self.record.get(name) for name in ("labels", "annotations")], list[dict[str, str]])
        try:
            orjson.dumps(self.record)
        except orjson.JSONEncodeError as error:  # a number of more than 64 bits, or what is nested too deeply
            raise ValueError(f"the record of an alert cannot be written again: {error}") from error


def to_state(rule: AlertRule, alert: Alert, seen: float = 0) -> AlertState:
    """Return the part of an alert that outlives the process."""
    return AlertState(
        1, rule.name, version_of(rule), list(alert.group), alert.status, alert.since, alert.started, alert.record, seen,
        alert.change, alert.changed_by,
    )  # fmt: skip


def from_state(state: AlertState, now: float) -> Alert:
    """Restore an alert. Its condition counts as true now; the next tick evaluates it."""
    return Alert(tuple(state.group), state.status, state.since, state.started, now, record=state.record)


def resolved_record(record: Mapping[str, Any], now: float, why: str) -> dict[str, Any]:
    """Return the record that the alert is resolved. ``record`` is the one written when it fired.

    Labels and annotations are repeated from that record, even if the rule has changed since: receivers identify the
    alert by them. The clock of the worker that fired may have been ahead: an alert never ends before its start."""
    ends_at = max(rfc3339(now), record["startsAt"])
    resolved = {
        "id": f"{record['id'].removesuffix('-firing')}-resolved",
        "status": "resolved",
        "timestamp": rfc3339(now),
    }
    return {**record, **resolved, "endsAt": ends_at, "resolved": why}


def firing_record(
    rule: AlertRule,
    alert: Alert,
    now: float,
    group: Mapping[str, str] | None = None,
    more_values: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Return the record that the alert fires, as ``streams/schemas/alert.schema.json`` defines it.

    ``group`` is what the record shows as the group, if it is not that of the rule; ``more_values`` are further values
    of templates."""
    group = dict(zip(rule.fields, alert.group, strict=True)) if group is None else dict(group)
    examples = [decode_example(one) for one in alert.examples]
    values = {**_template_values(rule, alert, group, examples), **(more_values or {})}
    name = fingerprint(rule.name, alert.group)
    record: dict[str, Any] = {
        "schema": SCHEMA_VERSION,
        "id": f"{rule.name}-{name}-{int(alert.started * 1000)}-firing",
        "rule": rule.name,
        "fingerprint": name,
        "status": "firing",
        "severity": rule.severity,
        "group": group,
        "labels": _labels(rule, alert, group, values),
        "annotations": {key: render(text, values) for key, text in rule.annotations.items()},
        "timestamp": rfc3339(now),
        "startsAt": rfc3339(alert.started),
        "count": alert.count,
        "examples": [msgspec.to_builtins(example) for example in examples],
    }
    if alert.policy:
        record |= {"policy": alert.policy, "change": alert.change}
    if alert.changed_by:
        record |= {"changedBy": alert.changed_by}
    return record


def digest_record(rule: AlertRule, alert: Alert, now: float) -> dict[str, Any]:
    """Return the record that a digest fires: see :mod:`streams.alerts.digest`."""
    record = firing_record(rule, alert, now)
    record["labels"] |= {"digest": "true"}
    record["annotations"] |= {
        "summary": f"{rule.name}: {alert.count} more groups fire than may fire at once; they share this alert",
    }
    return {**record, "digest": True}


def _template_values(
    rule: AlertRule, alert: Alert, group: Mapping[str, str], examples: Sequence[Example]
) -> dict[str, str]:
    """Return the values of all fields that :func:`streams.alerts.check.template_fields` allows, at least."""
    return {
        **group,
        "rule": rule.name,
        "severity": rule.severity,
        "count": str(alert.count),
        "threshold": str(rule.above.threshold if rule.above else ""),
        "window": rule.above.window if rule.above else "",
        "policy": alert.policy,
        "change": alert.change,
        "changed_by": alert.changed_by,
        **dict.fromkeys(("pairs", "worst", "explain", "backtest"), ""),
        "example": examples[0].sentence() if examples else "",
    }


def _labels(rule: AlertRule, alert: Alert, group: Mapping[str, str], values: Mapping[str, str]) -> dict[str, str]:
    """Return the labels by which Alertmanager identifies the alert; they must not change while it fires."""
    labels = {key: render(text, values) for key, text in rule.labels.items()}
    labels |= {label_name(name): text for name, text in group.items()}
    labels |= {"alertname": rule.name, "severity": rule.severity}
    if alert.policy:
        labels |= {"policy": alert.policy}
    return {name: text for name, text in labels.items() if text}
