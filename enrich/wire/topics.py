"""The topics, as both services create them.

A service creates the topics that are missing, checks those that exist, and never alters one. This module has only the
values; :mod:`streams.kafka.topics` and the probe talk to Kafka. The number of partitions is fixed at creation, because
adding some would move keys to other partitions and so break their order. Whoever needs more starts a new topic.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

_DAY_MS: Final = 86_400_000
LARGE: Final = str(8 << 20)
"""The most bytes of a record. 10,000 verdicts with the names of 3,000 rules are 1.6 MB, more than a broker accepts by
default."""
SMALL: Final = str(128 << 10)
"""The most bytes of a batch of address intervals, which every worker reads. Any producer with a right on the topic may
compress a batch a thousand times, and a client must inflate it before it can look at it."""
PAIRS_DAYS: Final = 400
MAX_PARTITIONS: Final = 10_000
"""The most partitions of a topic: a slip of a digit or two would stop a Kafka that others use, too."""
_ENDPOINTS: Final = {
    "message.timestamp.type": "LogAppendTime",
    "segment.ms": str(_DAY_MS),
    "max.message.bytes": SMALL,
}
_MAX_ALERT_PARTITIONS: Final = 8
JOURNAL_DAYS: Final = 400
_JOURNAL_REPEATS_DAYS: Final = 31
"""Every state is in the journal again after 31 days (:data:`enrich.wire.journal.REPEATED_NS`), so it is kept so much
longer than it answers."""
_STATE: Final = {"cleanup.policy": "compact", "segment.ms": str(_DAY_MS)}
# Workers read it when they take over partitions, so it is compacted early.
_CHECKPOINTS: Final = _STATE | {"segment.bytes": str(64 << 20), "min.cleanable.dirty.ratio": "0.1"}
_PAIRS: Final = {
    "cleanup.policy": "compact,delete",
    "message.timestamp.type": "LogAppendTime",
    "segment.ms": str(_DAY_MS),
    "segment.bytes": str(256 << 20),
    "min.cleanable.dirty.ratio": "0.2",
}
_CHECKED: Final = ("cleanup.policy", "message.timestamp.type")
"""Settings that an existing topic must have, or records are lost. Retention and sizes are up to the operator."""


@dataclass(frozen=True, slots=True)
class Topic:
    """One topic: its name, its partitions, and the configuration that it is created with, by Kafka's names."""

    name: str
    partitions: int
    config: Mapping[str, str]
    partitions_by: str = ""
    """What sets the number of partitions, for people: a setting, or a field of a file. Empty: nothing does."""

    def differences(self, partitions: int, config: Mapping[str, str | None]) -> list[str]:
        """Say in words how an existing topic differs from what it must be, and what to do; empty if it does not.

        The topic is never to be deleted: it has records that nobody else has."""
        wrong = []
        if partitions != self.partitions:
            by = self.partitions_by
            what_to_do = f"set {by} to {partitions}" if by else "leave them"
            wrong.append(f"it has {partitions} partitions, not {self.partitions}: {what_to_do}")
        for key in _CHECKED:
            if key in self.config and config.get(key) != self.config[key]:
                command = f"kafka-configs --alter --topic {self.name} --add-config {key}=[{self.config[key]}]"
                wrong.append(f"its {key} is {config.get(key)}, not {self.config[key]}: {command}")
        return wrong


@dataclass(frozen=True, slots=True)
class Topics:
    """The names of all topics under one WEIR_TOPIC_PREFIX."""

    raw: Topic
    """Batches of verdicts."""
    flows: Topic
    """One record for each verdict."""
    denied: Topic
    """The records of denies and audits only."""
    ended: Topic
    """One record for each report of a connection (WEIR_ENDS)."""
    dead: Topic
    """Dead letters: messages that cannot be processed, unchanged, with the reason in their headers."""
    status: Topic
    """Losses, gaps and heartbeats of rings."""
    endpoints: Topic
    """Address intervals: which pod had which address since when and until when."""
    alerts: Topic
    """The changes of state of alerts."""
    deltas: Topic
    """What is added to the count of each alert group, second by second."""
    alert_state: Topic
    """Which alerts fire, and the state of their groups. Each partition belongs to the same one of the deltas."""
    checkpoints: Topic
    """Which verdicts of which rings are finished, by partition of the raw topic."""
    journal: Topic
    """Each version of each object that decides or names."""
    pairs: Topic
    """Hourly counts of each combination of ends, port, verdict and policies (:mod:`enrich.wire.pair`)."""

    def __iter__(self) -> Iterator[Topic]:
        return iter(
            (
                self.raw, self.flows, self.denied, self.ended, self.dead, self.status, self.endpoints,
                self.alerts, self.deltas, self.alert_state, self.checkpoints, self.journal,
                self.pairs,
            )
        )  # fmt: skip


def topics(prefix: str, partitions: int, journal_days: int = JOURNAL_DAYS, pairs_days: int = PAIRS_DAYS) -> Topics:
    """Make the topics of a prefix. ``partitions`` is for those that carry the load; the others have one.

    ``journal_days``: so long the journal answers; ``pairs_days``: so long pairs are kept."""

    def topic(name: str, count: int, days: int, more: Mapping[str, str] | None = None) -> Topic:
        kept = {"cleanup.policy": "delete", "retention.ms": str(days * _DAY_MS)}
        by = "WEIR_PARTITIONS, of probes and workers," if count == partitions else ""
        return Topic(f"{prefix}.{name}", count, {**kept, **(more or {})}, by)

    # The broker sets the time: it would refuse the whole producer batch of a probe whose clock is ahead.
    broker_time = {"message.timestamp.type": "LogAppendTime", "max.message.bytes": LARGE}
    return Topics(
        raw=topic("verdicts.raw", partitions, 1, broker_time),
        flows=topic("flows", partitions, 3),
        denied=topic("flows.denied", partitions, 30),
        ended=topic("flows.ended", partitions, 3),
        dead=topic("dead", 1, 14, {"max.message.bytes": LARGE}),
        status=topic("status", 1, 3),
        # Compacted to the last state of each interval, which probes send again every day: the intervals of a node that
        # is gone disappear in a week.
        endpoints=topic("endpoints", 1, 7, {"cleanup.policy": "compact,delete"} | _ENDPOINTS),
        alerts=topic("alerts", 1, 30),
        # Few, because a transaction writes a marker to each partition that it touches.
        deltas=topic("alerts.deltas", min(partitions, _MAX_ALERT_PARTITIONS), 1),
        alert_state=topic("alerts.state", min(partitions, _MAX_ALERT_PARTITIONS), 1, _STATE),
        checkpoints=topic("checkpoints", 1, 1, _CHECKPOINTS),
        # One partition, because the order of versions says what was true when. The broker sets the time, so that nobody
        # can write an entry that is only believed later.
        journal=topic("journal", 1, journal_days + _JOURNAL_REPEATS_DAYS, {"message.timestamp.type": "LogAppendTime"}),
        pairs=topic("pairs", 1, pairs_days, _PAIRS),
    )
