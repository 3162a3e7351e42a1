"""Measure what counting pairs costs the enricher: the same work in one process, with and without it, in turns.

Two runs of a worker one after the other differ by more than pairs cost, because a machine gets faster or slower in
between. So one process has two pipelines of the product, one of which counts, with an enricher of its own each. They
take equal inputs in turns of a second or so, and send the records to Kafka through the product's producer. A turn ends
when Kafka has acknowledged every record, and the counts are encoded and sent. Its cost is the CPU time of the whole
process, so what other programs do meanwhile matters little, and the median of the ratios of adjacent turns leaves out
the rest. The second figure is the CPU time inside of what counts. The consumer is not in it, which would make the ratio
better.
"""

from __future__ import annotations

import asyncio
import secrets
import threading
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

from prometheus_client import CollectorRegistry

from enrich.history.left_out import LEFT_OUT
from enrich.index.cluster import NAMED_KINDS, Cluster
from enrich.render.enricher import Enricher, Records
from enrich.sources.factory import start_source
from enrich.wire.topics import Topics, topics
from streams.kafka.producer import RecordProducer
from streams.kafka.topics import prepare_topics
from streams.metrics.pairs import PairMetrics
from streams.metrics.roles import EnrichMetrics
from streams.roles.enrich import profile_number
from streams.worker.inflight import InFlightTracker, TrackedInput
from streams.worker.pair_counter import PairCounter
from streams.worker.pending import PendingVerdicts
from streams.worker.pipeline import Pipeline
from tests.bench.result import BenchError, Figure, expect, say
from tests.bench.scale import Scale
from tests.bench.verdicts import CLUSTER, NODES, make_batches, make_verdicts

CASE: Final = "counting pairs, in one process"
MEASURE: Final = "times without pairs, CPU"
SHARE: Final = "of the CPU time"
AIM: Final = 0.95
_MERGED: Final = 4
"""Batches of 1,000 that are taken together, as :mod:`streams.worker.intake` takes them when many wait."""
_BATCH: Final = 1_000
_LIMIT: Final = 200_000
_TIMEOUT_S: Final = 120.0


class _Counting:
    """Counts pairs as :class:`streams.worker.pairs.Pairs` does, but for the transactions."""

    def __init__(self) -> None:
        self.cpu_s = 0.0
        """What all of this has taken."""
        self.counter = PairCounter(_LIMIT, PairMetrics(CollectorRegistry()))
        for partition in range(len(NODES)):
            self.counter.begin(partition, 0)

    def count(self, inputs: Sequence[TrackedInput], records: Records) -> None:
        began = time.thread_time()
        if records.columns is not None:
            self.counter.count(inputs, records.columns)
        self.cpu_s += time.thread_time() - began

    def finish(self, tracked: TrackedInput) -> None:
        began = time.thread_time()
        self.counter.finish(tracked)
        self.cpu_s += time.thread_time() - began

    def write(self, producer: RecordProducer, topic: str) -> None:
        """Send what has changed."""
        began = time.thread_time()
        write = self.counter.take_write()
        if write is not None:
            for key, value in write.records:
                producer.offer(topic, key, value, int(time.time() * 1000), _delivered)
            self.counter.written(write)
        self.cpu_s += time.thread_time() - began


class _Worker:
    """A pipeline with its inputs in flight, on a running event loop."""

    def __init__(self, cluster: Cluster, producer: RecordProducer, own_topics: Topics, pairs: _Counting | None) -> None:
        profile = partial(profile_number, frozenset(LEFT_OUT)) if pairs is not None else None
        enricher = Enricher(cluster, profile=profile)
        pending = PendingVerdicts(enricher, time.time_ns, 10**9, 1 << 26, time.time_ns)
        self._pairs, self._producer, self._pairs_topic = pairs, producer, own_topics.pairs.name
        self._pipeline = Pipeline(
            own_topics, CLUSTER, enricher, lambda _uid: "", producer, EnrichMetrics(CollectorRegistry()), "bench",
            pending,
        )  # fmt: skip
        self._pipeline.pairs = pairs
        call_soon = asyncio.get_running_loop().call_soon_threadsafe
        self._tracker = InFlightTracker(200_000, 1 << 26, call_soon, _refused)
        self._offset = 0

    async def turn(self, batches: Sequence[Sequence[bytes]]) -> float:
        """Take the batches of all nodes, and return the CPU time that it took until Kafka had everything."""
        began = time.process_time()
        for values in zip(*batches, strict=True):
            for first in range(0, len(NODES), _MERGED):
                partitions = range(first, first + _MERGED)
                inputs = [(await self._open(number, values[number]), values[number]) for number in partitions]
                await self._pipeline.take(inputs)
            self._offset += 1
        deadline = time.monotonic() + _TIMEOUT_S
        while len(self._tracker):
            if time.monotonic() > deadline:
                raise BenchError(f"{len(self._tracker)} inputs are not acknowledged after {_TIMEOUT_S:.0f} s")
            await asyncio.sleep(0.002)
        if self._pairs is not None:
            self._pairs.write(self._producer, self._pairs_topic)
        return time.process_time() - began

    async def _open(self, partition: int, value: bytes) -> TrackedInput:
        await self._tracker.wait_for_room(_BATCH, len(value))
        return self._tracker.open(partition, self._offset, _BATCH, len(value), self._pipeline.finish)


def measure_cost(scale: Scale, manifests: Path, servers: str) -> list[Figure]:
    """Measure the enricher's throughput with pairs, as a part of that without, by CPU time; and what counting itself
    takes of the CPU time, in which two runs need not be compared."""
    own_topics = topics(f"bench{secrets.token_hex(3)}", len(NODES))
    prepare_topics({"bootstrap.servers": servers}, own_topics, 0, threading.Event())
    cluster = Cluster(tail_s=60.0, kinds=NAMED_KINDS)
    source = start_source(f"manifests:{manifests}", cluster)
    producer = RecordProducer({"bootstrap.servers": servers})
    producer.start(lambda error: say(f"Kafka's producer failed: {error}"))
    try:
        return asyncio.run(_measure(scale, cluster, producer, own_topics))
    finally:
        producer.close()
        source.stop()


async def _measure(scale: Scale, cluster: Cluster, producer: RecordProducer, own_topics: Topics) -> list[Figure]:
    pairs = _Counting()
    workers = {True: _Worker(cluster, producer, own_topics, pairs), False: _Worker(cluster, producer, own_topics, None)}
    share = scale.pair_verdicts // len(NODES)
    ratios, shares = [], []
    # The first turn of each is not measured: it fills the caches.
    for turn in range(scale.pair_turns + 1):
        say(f"streams: with and without pairs in one process, turn {turn} of {scale.pair_turns}")
        batches = [make_batches(node, make_verdicts(node, share), _BATCH, turn * share) for node in NODES]
        before = pairs.cpu_s
        # Every second time the one that counts comes first.
        spent = {counts: await workers[counts].turn(batches) for counts in ((True, False), (False, True))[turn % 2]}
        if turn:
            ratios.append(spent[False] / spent[True])
            shares.append((pairs.cpu_s - before) / spent[True])
    expect(pairs.counter.verdicts, share * len(NODES) * (scale.pair_turns + 1), "verdicts in pairs")
    return [Figure(CASE, MEASURE, tuple(ratios), AIM), Figure(CASE, SHARE, tuple(shares))]


def _delivered(error: Any, _message: Any) -> None:
    if error is not None:
        say(f"a record of counts was refused: {error}")


def _refused(tracked: TrackedInput, error: Any, message: Any) -> None:
    say(f"a record was refused: {error}: {message.topic()}, of input {tracked.offset}")
