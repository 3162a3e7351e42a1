"""The topics, as both services make them: what is missing is made, what is there is checked and never altered.

Values only; who talks to Kafka does the making. Partitions are fixed when a topic is made: growing one would move keys
to other partitions and break their order, so growing means a new topic.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

_DAY_MS: Final = 86_400_000
LARGE: Final = str(8 << 20)
"""Bytes a record: 10,000 rows with the names of 3,000 rules are 1.6 MB, more than a broker takes by default."""
_ENDPOINTS: Final = {"message.timestamp.type": "LogAppendTime", "segment.ms": str(_DAY_MS)}
_ALERTS: Final = 8
_STATE: Final = {"cleanup.policy": "compact", "segment.ms": str(_DAY_MS)}
_CHECKED: Final = ("cleanup.policy", "message.timestamp.type")
"""What must be as it is made, or records are lost; retention and sizes are the operator's business."""


@dataclass(frozen=True, slots=True)
class Topic:
    """One topic: its name, partitions, and the configuration that it is made with (Kafka's own names)."""

    name: str
    partitions: int
    config: Mapping[str, str]

    def differences(self, partitions: int, config: Mapping[str, str | None]) -> list[str]:
        """In words, how what is there is not as it must be."""
        wrong = []
        if partitions != self.partitions:
            wrong.append(f"it has {partitions} partitions, not {self.partitions}")
        for key in _CHECKED:
            if key in self.config and config.get(key) != self.config[key]:
                wrong.append(f"its {key} is {config.get(key)}, not {self.config[key]}")
        return wrong


@dataclass(frozen=True, slots=True)
class Topics:
    """All of them."""

    raw: Topic
    """Batches of verdicts."""
    flows: Topic
    """One record a verdict."""
    denied: Topic
    """Denies and audits only."""
    dead: Topic
    """What could not be taken, as it came; the reason in the headers."""
    status: Topic
    """Losses, gaps and heartbeats."""
    endpoints: Topic
    """Which pod had which address since when and until when."""
    alerts: Topic
    """Alerts' changes of state."""
    deltas: Topic
    """How much more of each group that alerts are about, by second."""
    alert_state: Topic
    """What fires, and what is known of groups; partition by partition that of the deltas."""

    def __iter__(self) -> Iterator[Topic]:
        return iter(
            (
                self.raw, self.flows, self.denied, self.dead, self.status, self.endpoints,
                self.alerts, self.deltas, self.alert_state,
            )
        )  # fmt: skip


def topics(prefix: str, partitions: int) -> Topics:
    """The topics below a prefix. ``partitions`` is for those that carry the load; the others have one."""

    def topic(name: str, count: int, days: int, more: Mapping[str, str] | None = None) -> Topic:
        kept = {"cleanup.policy": "delete", "retention.ms": str(days * _DAY_MS)}
        return Topic(f"{prefix}.{name}", count, {**kept, **(more or {})})

    # The broker's time: a probe whose clock is ahead would else get its whole producer batch refused.
    broker_time = {"message.timestamp.type": "LogAppendTime", "max.message.bytes": LARGE}
    return Topics(
        raw=topic("verdicts.raw", partitions, 1, broker_time),
        flows=topic("flows", partitions, 3),
        denied=topic("flows.denied", partitions, 30),
        dead=topic("dead", 1, 14, {"max.message.bytes": LARGE}),
        status=topic("status", 1, 3),
        # The last word on each hold, told again each day: what a node that is gone left is forgotten in a week.
        endpoints=topic("endpoints", 1, 7, {"cleanup.policy": "compact,delete"} | _ENDPOINTS),
        alerts=topic("alerts", 1, 30),
        # Few: a transaction has a mark in each that it writes.
        deltas=topic("alerts.deltas", min(partitions, _ALERTS), 1),
        alert_state=topic("alerts.state", min(partitions, _ALERTS), 1, _STATE),
    )
