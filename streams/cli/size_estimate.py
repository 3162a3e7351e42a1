"""Estimates what a cluster of a size needs: pure arithmetic over :mod:`streams.cli.size_facts`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from enrich.wire.topics import topics
from streams.cli import size_facts as facts

_VERDICTS_OF_A_CONNECTION: Final = 2
_DENIED_SHARE: Final = 0.1
_BATCH_S: Final = 0.1
"""The least time between two batches of a node: a denied verdict waits no longer (WEIR_BATCH_DENIED_WAIT)."""
_MAX_BATCH: Final = 2_000
_HEARTBEAT_S: Final = 10.0
_UTILISATION: Final = 0.5
_LEAST_WORKERS: Final = 2
_PARTITIONS: Final = 32
_PARTITIONS_OF_A_WORKER: Final = 2
_DAY_S: Final = 86_400
_MANY_NODES: Final = 300
_MIB: Final = 1 << 20

ASSUMPTIONS: Final = (
    f"{_VERDICTS_OF_A_CONNECTION} verdicts a connection: one at each end, each of which is a pod under policy; each is "
    "logged (WEIR_LOGGING and limits can leave some out).",
    f"One verdict in {1 / _DENIED_SHARE:.0f} is a deny, counted once; WEIR_ENDS is off, and so are routes.",
    f"Connections are spread evenly over nodes and hours, and a node sends a batch every {_BATCH_S:g} s. For a peak, "
    "give the connections of the peak: bytes a day are then too many, the rest is right.",
    f"Workers and brokers are half busy, there are {_LEAST_WORKERS} workers at least, and as many brokers as replicas.",
    "A batch of records has ten of a partition: with more, they take less; with one, four times as much.",
    "A broker takes as many bytes a second as in the measurement: two cores, which a probe used as well. Its disk is "
    "not looked at: divide what is kept by the brokers.",
    "A thousandth of the pods changes in each second, as in the measurement; quiet clusters have a tenth of that.",
)


@dataclass(frozen=True, slots=True)
class TopicSize:
    """What a topic takes on disk."""

    name: str
    bytes_a_day: float
    """Without replicas."""
    days: float
    """How long records are kept."""
    bytes_kept: float
    """On all brokers together, with replicas."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """What the cluster needs."""

    verdicts_a_second: float
    topics: tuple[TopicSize, ...]
    partitions: int
    workers: int
    worker_mib: int
    """What a worker takes, about."""
    worker_limit_mib: int
    """What its container may take."""
    worker_cores: float
    """All workers together."""
    brokers: int
    broker_bytes_a_second: float
    """Written to all brokers together, with replicas."""
    probe_mib: int
    api_list_bytes: float
    """What all probes together read from the API servers when they start."""
    api_bytes_a_second: float
    """What they read afterwards."""
    notes: tuple[str, ...]


def estimate(nodes: int, pods: int, connections: float, replication: int, prefix: str) -> Estimate:
    """Return the estimate. ``connections``: new ones a second, in the whole cluster."""
    verdicts = connections * _VERDICTS_OF_A_CONNECTION
    sizes = _topics(nodes, pods, verdicts, replication, prefix)
    workers = max(_LEAST_WORKERS, math.ceil(verdicts / (facts.VERDICTS_OF_A_CORE.value * _UTILISATION)))
    for_workers = 1 << (workers * _PARTITIONS_OF_A_WORKER - 1).bit_length()
    written = sum(one.bytes_a_day for one in sizes) * replication / _DAY_S
    broker = facts.VERDICTS_OF_A_BROKER.value * facts.RAW_BYTES_LARGE.value * _UTILISATION
    index_mib = pods * facts.INDEX_BYTES.value / _MIB
    above_mib = max(0.0, pods - facts.PODS_OF_THE_LIMIT.value) * facts.INDEX_BYTES.value * 2 / _MIB
    return Estimate(
        verdicts_a_second=verdicts,
        topics=sizes,
        partitions=max(_PARTITIONS, for_workers),
        workers=workers,
        worker_mib=math.ceil(facts.WORKER_MIB.value + 2 * index_mib),
        worker_limit_mib=math.ceil(facts.WORKER_LIMIT_MIB.value + above_mib),
        worker_cores=workers * facts.WORKER_CORES.value + verdicts / facts.VERDICTS_OF_A_CORE.value,
        brokers=max(replication, math.ceil(written / broker)),
        broker_bytes_a_second=written,
        probe_mib=math.ceil(facts.PROBE_MIB.value + index_mib),
        api_list_bytes=nodes * pods * facts.POD_BYTES.value,
        api_bytes_a_second=nodes * pods * facts.CHANGES_OF_A_POD.value * facts.POD_BYTES.value,
        notes=tuple(_notes(nodes, pods)),
    )


def raw_bytes(verdicts_of_a_node: float) -> float:
    """Return the bytes of a verdict in the raw topic: a small batch has its header for few verdicts."""
    size = min(max(verdicts_of_a_node * _BATCH_S, 1.0), _MAX_BATCH)
    small, large = facts.RAW_BYTES_SMALL.value, facts.RAW_BYTES_LARGE.value
    # Two sizes were measured: bytes = verdict + header / size.
    header = (small - large) / (1 / 10 - 1 / 1000)
    return large + header * (1 / size - 1 / 1000)


def _topics(nodes: int, pods: int, verdicts: float, replication: int, prefix: str) -> tuple[TopicSize, ...]:
    names = topics(prefix, _PARTITIONS)
    days = (
        (names.raw, verdicts * _DAY_S * raw_bytes(verdicts / nodes)),
        (names.flows, verdicts * _DAY_S * facts.FLOW_BYTES.value),
        (names.denied, verdicts * _DAY_S * _DENIED_SHARE * facts.DENIED_BYTES.value),
        (names.status, nodes * _DAY_S / _HEARTBEAT_S * facts.STATUS_BYTES.value),
        (names.endpoints, pods * facts.INTERVAL_BYTES.value),  # each is sent again once a day
        (names.journal, pods * facts.JOURNAL_BYTES.value),
        (names.pairs, pods * facts.PAIRS_OF_A_POD.value * 24 * facts.PAIR_BYTES.value),
    )
    sizes = []
    for topic, day in days:
        kept = int(topic.config["retention.ms"]) / 1000 / _DAY_S
        sizes.append(TopicSize(topic.name, day, kept, day * kept * replication))
    return tuple(sizes)


def _notes(nodes: int, pods: int) -> list[str]:
    notes = []
    if nodes > _MANY_NODES:
        notes.append("Each probe watches all pods: beyond some hundreds of nodes that costs the API servers too much.")
    if pods > facts.PODS_OF_THE_LIMIT.value:
        notes.append("More than 100,000 pods were not measured: give workers the memory limit above.")
    return notes
