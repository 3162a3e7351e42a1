"""Measure what pairs take on the topic: a day of a cluster of 10,000 pods, as compaction leaves it.

``python -m tests.bench.pairs_size`` starts Apache Kafka, writes the day with two compressions, and prints the bytes of
the broker's log for each combination and hour, and for a year. The cluster has 1,000 workloads; each talks to 90 others
and to 10 addresses outside. How often a combination has a verdict is distributed like in real traffic: few of them very
often, most of them seldom.
"""

from __future__ import annotations

import tempfile
import threading
import time
from pathlib import Path
from typing import Any, Final

import click
import numpy as np
from confluent_kafka import Producer

from enrich.wire.pair import PairEnd, PairKey
from enrich.wire.references import PolicyRef
from enrich.wire.topics import topics
from streams.kafka.topics import prepare_topics
from streams.worker.pair_limits import HourLimits
from streams.worker.pair_segment import SECONDS_PER_HOUR, Segment
from tests.kafka.broker import log_bytes, running_broker

WORKLOADS: Final = 1_000
PEERS: Final = 100
_OUTSIDE: Final = 10
_HOURS: Final = 24
_HOURS_OF_YEAR: Final = 24 * 365
_FIRST_HOUR: Final = 495_000


def make_segment(workloads: int) -> Segment:
    """Make a segment with the combinations of a cluster, each with the ids of three records."""
    chance = np.random.default_rng(7)
    segment = Segment("7d3f0a52-9a1b-4c1e-8f57-0c8d7b7f3f10", HourLimits(1 << 30, lambda _: None), 0.0)
    combinations = segment.combinations
    ends = [_workload(number, chance) for number in range(workloads)]
    for number in range(workloads * PEERS):
        subject, place = number % workloads, number // workloads
        other = int(chance.integers(0, workloads))
        outside = PairEnd(block=f"203.{chance.integers(0, 255)}.{chance.integers(0, 255)}.{chance.integers(1, 255)}/32")
        key = PairKey(
            subject=ends[subject], peer=outside if place < _OUTSIDE else ends[other],
            direction="ingress" if place % 2 else "egress", protocol=6, port=(53, 80, 443, 5432, 8080)[place % 5],
            verdict="deny" if place % 20 == 0 else "allow", reason="default_deny" if place % 20 == 0 else "policy",
            policies=(PolicyRef("NetworkPolicy", ends[subject].namespace, f"policy-{subject % 7}", place % 4),),
            service=f"{ends[other].namespace}/svc-{other}" if place % 3 == 0 and place >= _OUTSIDE else "",
        )  # fmt: skip
        combinations.keys.append(key)
        ring = f"{int(chance.integers(0, 300)):016x}"
        combinations.examples.append(tuple(f"{ring}-{chance.integers(0, 1 << 28)}" for _ in range(3)))
        combinations.changed_chunks.add(number // 1024)
    return segment


def _workload(number: int, chance: np.random.Generator) -> PairEnd:
    profile = chance.bytes(8).hex()
    return PairEnd(profile=profile, namespace=f"team-{number % 100}", workload=f"Deployment/app-{number}")


def add_hour(segment: Segment, hour: int, pairs: int) -> None:
    """Count an hour: each combination has between one verdict and many."""
    chance = np.random.default_rng(hour)
    often = np.minimum(chance.pareto(0.6, pairs) + 1, 200).astype(np.int64)
    numbers = np.repeat(np.arange(pairs), often)
    seconds = hour * SECONDS_PER_HOUR + chance.integers(0, SECONDS_PER_HOUR, len(numbers))
    counted = np.stack([numbers, np.ones_like(numbers), seconds, seconds]).astype(np.uint32)
    segment.add(counted)


def records_of_day(workloads: int, hours: int) -> list[tuple[bytes, bytes]]:
    """Return the records of a day as compaction leaves them."""
    segment = make_segment(workloads)
    for hour in range(hours):
        add_hour(segment, _FIRST_HOUR + hour, workloads * PEERS)
    return segment.take_changes()[1]


@click.command()
@click.option("--workloads", default=WORKLOADS, show_default=True)
@click.option("--hours", default=_HOURS, show_default=True)
def command(workloads: int, hours: int) -> None:
    """Write a day of pairs to Apache Kafka, and say how many bytes it takes."""
    records = records_of_day(workloads, hours)
    pairs = workloads * PEERS * hours
    print(f"{pairs:,} combinations and hours in {len(records):,} records, {sum(len(v) for _, v in records):,} bytes")
    with tempfile.TemporaryDirectory() as folder, running_broker(Path(folder)) as servers:
        for compression in ("none", "lz4", "zstd"):
            size = _written(servers, Path(folder), compression, records)
            year = size / hours * _HOURS_OF_YEAR / 1e9
            print(f"{compression}: {size:,} bytes, {size / pairs:.2f} of a combination and hour, {year:.1f} GB a year")


def _written(servers: str, folder: Path, compression: str, records: list[tuple[bytes, bytes]]) -> int:
    topic, connection = topics(f"size{compression}", 1).pairs, {"bootstrap.servers": servers}
    prepare_topics(connection, [topic], 0, threading.Event())
    settings: dict[str, Any] = {**connection, "compression.type": compression, "linger.ms": 20, "batch.size": 900_000}
    producer = Producer(settings)
    for key, value in records:
        producer.produce(topic.name, value, key)
        producer.poll(0)
    producer.flush(60)
    time.sleep(1)
    return log_bytes(folder, topic.name)


if __name__ == "__main__":
    command()
