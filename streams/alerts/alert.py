"""One alert: its state while it lasts, the record of a change of it, and what of it outlives the process."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import msgspec
import orjson

from streams.alerts.deltas import fingerprint, version_of
from streams.alerts.fields import label_name
from streams.alerts.model import Rule
from streams.alerts.template import render

SCHEMA_VERSION: Final = 1
Status = Literal["pending", "firing", "known"]


@dataclass(slots=True)
class Alert:
    """A rule's condition holds for a group, or did a moment ago. Times are seconds of the wall clock."""

    group: tuple[str, ...]
    status: Status
    since: float
    """When it was first seen to hold."""
    started: float
    """The records' own time of that."""
    last_true: float
    count: int = 0
    examples: list[bytes] = field(default_factory=list)
    """Records as JSON, cut down."""
    policy: str = ""
    change: str = ""
    record: dict[str, Any] | None = None
    """What was told when it fired."""


class State(msgspec.Struct, omit_defaults=True):
    """A record of ``<prefix>.alerts.state``; its key is :func:`key_of`."""

    v: int
    rule: str
    version: str
    group: list[str]
    status: Status
    since: float = 0
    started: float = 0
    record: Any = None
    """What was told when it fired."""
    seen: float = 0
    """Of rules about what comes first: the latest record, to the day."""


def key_of(rule: str, group: Sequence[str]) -> str:
    """Names an alert: the key of its records."""
    return f"{rule}/{fingerprint(rule, group)}"


def state_of(rule: Rule, alert: Alert, seen: float = 0) -> State:
    """What is to outlive the process."""
    return State(
        1, rule.name, version_of(rule), list(alert.group), alert.status, alert.since, alert.started, alert.record, seen
    )


def alert_of(state: State, now: float) -> Alert:
    """The alert as it was; whether its condition holds is to be seen."""
    return Alert(tuple(state.group), state.status, state.since, state.started, now, record=state.record)


def resolved_of(record: Mapping[str, Any], now: float, why: str) -> dict[str, Any]:
    """The record that it is over. Labels and all else are as it was told when it fired, whatever the rule says now."""
    resolved = {"id": f"{record['id'].removesuffix('-firing')}-resolved", "status": "resolved", "timestamp": stamp(now)}
    return {**record, **resolved, "endsAt": stamp(now), "resolved": why}


def record_of(rule: Rule, alert: Alert, now: float) -> dict[str, Any]:
    """The record that it fires, as it is on ``<prefix>.alerts`` (``streams/schemas/alert.schema.json``)."""
    group = dict(zip(rule.fields, alert.group, strict=True))
    examples = [orjson.loads(one) for one in alert.examples]
    values = _values(rule, alert, group, examples)
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
        "timestamp": stamp(now),
        "startsAt": stamp(alert.started),
        "count": alert.count,
        "examples": examples,
    }
    if alert.policy:
        record |= {"policy": alert.policy, "change": alert.change}
    return record


def _values(
    rule: Rule, alert: Alert, group: Mapping[str, str], examples: Sequence[Mapping[str, Any]]
) -> dict[str, str]:
    """What the templates may name."""
    return {
        **group,
        "rule": rule.name,
        "severity": rule.severity,
        "count": str(alert.count),
        "threshold": str(rule.above.threshold if rule.above else ""),
        "window": rule.above.window if rule.above else "",
        "policy": alert.policy,
        "change": alert.change,
        "example": sentence(examples[0]) if examples else "",
    }


def _labels(rule: Rule, alert: Alert, group: Mapping[str, str], values: Mapping[str, str]) -> dict[str, str]:
    """They name the alert for Alertmanager, so they are the same when it fires and when it is resolved."""
    labels = {key: render(text, values) for key, text in rule.labels.items()}
    labels |= {label_name(name): text for name, text in group.items()}
    labels |= {"alertname": rule.name, "severity": rule.severity}
    if alert.policy:
        labels |= {"policy": alert.policy}
    return {name: text for name, text in labels.items() if text}


def sentence(flow: Mapping[str, Any]) -> str:
    """A record in a line."""
    connection = flow["connection"]
    port = f":{connection['dest_port']}" if "dest_port" in connection else ""
    protocol = f" {connection['protocol']}" if "protocol" in connection else ""
    ends = " -> ".join(_end(flow, side) for side in ("src", "dest"))
    return f"{flow['disposition']} {connection['direction']} {ends}{port}{protocol} ({flow['reason']})"


def _end(flow: Mapping[str, Any], side: str) -> str:
    end = flow[side]
    if end.get("pod_name"):
        return f"{end.get('namespace', '')}/{end['pod_name']}"
    return str(flow["connection"].get(f"{side}_ip") or end.get("node_name") or "many")


def stamp(seconds: float) -> str:
    """RFC 3339, UTC, milliseconds."""
    whole, part = divmod(int(seconds * 1000), 1000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(whole))}.{part:03d}Z"
