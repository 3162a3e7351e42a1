"""The rights that each of kubeweir's principals needs on Kafka, and no more.

The page docs/kafka-acls.md and the files in deploy/kafka are made from this list (``python -m tests.docs.generate``),
and tests/kafka/test_rights.py runs everything with it, and shows of each right what does not work without it.

The topics exist: whoever lets kubeweir create them allows CREATE on their prefix as well. Kafka implies DESCRIBE by
READ and WRITE, and an idempotent producer needs nothing but WRITE on its topics since version 3.0.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

Principal = Literal["probe", "workers", "readers"]
Resource = Literal["topic", "group", "transactionalId"]
Operation = Literal["Read", "Write", "DescribeConfigs"]

PRINCIPALS: Final[dict[Principal, str]] = {
    "probe": "`weir-probe`, on every node",
    "workers": "`weir-streams`, in every role",
    "readers": "The command `weir`, log shippers and your own consumers",
}
_PROBE_WRITES: Final = {"verdicts.raw": "send batches of verdicts", "endpoints": "send address intervals"}
_WORKER_READS: Final = {
    "verdicts.raw": "read batches",
    "endpoints": "learn which pod had which address",
    "flows": "feed the sinks, and the outputs of routes",
    "flows.denied": "count denies for alerts, and feed outputs of routes that take only denies",
    "status": "count losses for alerts",
    "alerts": "notify Alertmanager and webhooks",
    "alerts.deltas": "put the counts of all workers together",
    "alerts.state": "know after a restart what fires",
    "checkpoints": "notice verdicts that vanished between two workers",
    "journal": "know what is written already, so that no version is written twice",
}
_WORKER_WRITES: Final = {
    "flows": "write records",
    "flows.denied": "write records of denies",
    "flows.ended": "write records of connections that have ended (`WEIR_ENDS`)",
    "status": "report losses and heartbeats",
    "dead": "keep what cannot be taken",
    "alerts": "write alerts",
    "alerts.deltas": "hand on counts",
    "alerts.state": "keep what fires",
    "checkpoints": "note which verdicts are finished",
    "pairs": "count the pairs of each hour (`WEIR_PAIRS`)",
    "journal": "keep each version of policies and of what names",
}
_READER_READS: Final = {
    "flows": "read records",
    "flows.denied": "read denies",
    "flows.ended": "read what connections carried",
    "status": "read losses and heartbeats",
    "alerts": "read alerts",
    "alerts.state": "know which alerts fire (the page)",
    "dead": "look at dead letters",
    "checkpoints": "know which nodes were ever heard of (`weir status`)",
    "pairs": "answer questions about the past",
    "journal": "know what policy said at a time",
    "endpoints": "know which pod had an address then (`weir explain --at`), and where pods have addresses",
}

_WITHOUT_A_GROUP: Final = "read the topic without a group, for which librdkafka asks all the same"


@dataclass(frozen=True, slots=True)
class Right:
    """One right of one principal."""

    principal: Principal
    resource: Resource
    name: str
    """What the right is for, without the prefix of the topics, and with ``CLUSTER`` for the id of the cluster. With a
    dot at its end it is how the name begins."""
    operation: Operation
    purpose: str
    """What the principal does with it, as a verb phrase."""

    @property
    def id(self) -> str:
        """A name for the right."""
        return f"{self.principal}-{self.operation}-{self.resource}-{self.name}"

    @property
    def prefixed(self) -> bool:
        """Whether the right is for every name that begins so."""
        return self.name.endswith(".")

    def full_name(self, prefix: str, cluster: str) -> str:
        """Return the name, or its beginning, for a WEIR_TOPIC_PREFIX and a cluster's id."""
        return f"{prefix}.{self.name.replace('CLUSTER', cluster)}"


def _rights() -> Iterator[Right]:
    for name, purpose in _PROBE_WRITES.items():
        yield Right("probe", "topic", name, "Write", purpose)
    yield Right("probe", "topic", "verdicts.raw", "DescribeConfigs", "check the topic's settings (else a warning)")
    for name, purpose in _WORKER_READS.items():
        yield Right("workers", "topic", name, "Read", purpose)
    for name, purpose in _WORKER_WRITES.items():
        yield Right("workers", "topic", name, "Write", purpose)
    for name in dict.fromkeys((*_WORKER_READS, *_WORKER_WRITES)):
        yield Right("workers", "topic", name, "DescribeConfigs", "check the topic's settings (else a warning)")
    for name in ("endpoints", "alerts.state", "checkpoints", "journal"):
        yield Right("workers", "group", f"{name}.reader", "Read", _WITHOUT_A_GROUP)
    yield Right("workers", "group", "CLUSTER.", "Read", "share partitions between workers, and commit")
    yield Right("workers", "transactionalId", "CLUSTER.alerts.", "Write", "write alerts exactly once")
    yield Right("workers", "transactionalId", "CLUSTER.pairs.", "Write", "count pairs exactly once")
    yield Right("workers", "transactionalId", "CLUSTER.journal.", "Write", "write the journal exactly once")
    for name, purpose in _READER_READS.items():
        yield Right("readers", "topic", name, "Read", purpose)
    for name in _READER_READS:
        yield Right("readers", "group", f"{name}.reader", "Read", _WITHOUT_A_GROUP)
    yield Right("readers", "group", "reader.", "Read", "keep a place in a topic, for your own consumers")


RIGHTS: Final = tuple(_rights())
