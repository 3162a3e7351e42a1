"""Measure verdicts per second from the kernel's ring buffer to batches that Kafka has acknowledged.

1. The kernel program fills the ring: one BPF_PROG_RUN for each verdict, each a new connection that policy allows. This
   is slow (a system call for each verdict) and is not timed.
2. Drain, batcher, spool and publisher run as in the probe, with an open connection to Kafka, until Kafka has
   acknowledged the last batch. This is timed.
3. The topic is read back: it must have every verdict number once, in order.
"""

from __future__ import annotations

import itertools
import secrets
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from confluent_kafka import Consumer, TopicPartition

from enrich.wire.batch import Batch, decode_batch
from enrich.wire.topics import Topic, topics
from probe.export.batcher import Batcher, Limits, Verdicts
from probe.export.drain import Drain
from probe.export.publisher import Publisher
from probe.export.ring import Ring
from probe.export.spool import Spool
from probe.ledger import LedgerReferences
from tests.bench.node import OPEN_PORT, PASS, Node, syn
from tests.bench.result import BenchError, Figure, Part, expect, say
from tests.bench.scale import Scale

_IDENTITY: Final = ("bench", "n1")
"""Cluster and node."""
_AIM_PER_S: Final = 500_000.0
_TIMEOUT_S: Final = 60.0
_PARTITIONS: Final = 8
_READ_VERDICTS: Final = 20_000
"""Verdicts in one read, as many as the probe's drain reads."""
_PORTS: Final = 50_000


def measure(scale: Scale, node: Node, folder: Path, servers: str) -> Part:
    """In each round, fill the ring, read it without sending, then send it."""
    bench = _Bench(node, folder, servers, scale.ring_batches * Limits().verdicts)
    for number in range(scale.ring_rounds):
        say(f"ring: round {number + 1} of {scale.ring_rounds}, {bench.verdicts:,} verdicts")
        bench.round(number)
    how = (
        f"{bench.verdicts:,} new connections, every second one IPv6, are in a ring of the default size. Read: the "
        "verdicts are copied out of the ring. Batched: they are also put into batches with their names. To Kafka: "
        "drain, batcher, spool and publisher as in weir-probe, acks=all, until Kafka has acknowledged the last batch. "
        "CPU is that of this process; Kafka runs on the same cores."
    )
    return Part("Ring buffer to acknowledged Kafka batches", how, bench.figures(), bench.counts)


class _Bench:
    """Samples by (case, measure), and counts of input and output."""

    def __init__(self, node: Node, folder: Path, servers: str, verdicts: int) -> None:
        self._node, self._folder, self._servers = node, folder, servers
        self.verdicts = verdicts
        self._names = LedgerReferences(node.rig.numbers)
        self._topic = topics(f"bench{secrets.token_hex(3)}", _PARTITIONS).raw
        self._sequence = itertools.count(1)
        self._samples: dict[tuple[str, str], list[float]] = {}
        self.counts = {"verdicts": 0, "acknowledged": 0, "read_back": 0, "lost": 0}

    def figures(self) -> list[Figure]:
        """Return the figures in the order in which they were first measured."""
        aims = {("ring to Kafka", "verdicts/s"): _AIM_PER_S}
        return [Figure(*name, tuple(samples), aims.get(name)) for name, samples in self._samples.items()]

    def round(self, number: int) -> None:
        """Fill the ring and measure each case once."""
        self._node.inside(self._fill)
        self.counts["verdicts"] += self.verdicts
        self._timed("ring read", self._read)
        self._timed("ring read and batched", self._batch)
        self._send(self._folder / f"spool-{number}")
        self._read_back()

    def _fill(self) -> None:
        for number in itertools.islice(self._sequence, self.verdicts):
            frame = syn(6 if number % 2 else 4, 1024 + number % _PORTS, OPEN_PORT, number)
            # The exit logs connections to other pods.
            if self._node.run(frame)[0] != PASS or self._node.run_exit(frame)[0] != PASS:
                raise BenchError("the program denies a connection that policy allows")

    def _timed(self, case: str, work: Callable[[], int]) -> None:
        started, cpu = time.perf_counter(), time.process_time()
        expect(work(), self.verdicts, f"verdicts ({case})")
        self._add(case, time.perf_counter() - started, time.process_time() - cpu)

    def _add(self, case: str, wall_s: float, cpu_s: float) -> None:
        self._samples.setdefault((case, "verdicts/s"), []).append(self.verdicts / wall_s)
        self._samples.setdefault((case, "verdicts/CPU s"), []).append(self.verdicts / cpu_s)

    def _read(self) -> int:
        """Read the ring without advancing its position: the next reader finds the same verdicts."""
        ring = Ring(self._node.rig.maps)
        try:
            return sum(len(verdicts) for _, verdicts in _read_all(ring))
        finally:
            ring.close()

    def _batch(self) -> int:
        ring = Ring(self._node.rig.maps)
        batcher = Batcher((*_IDENTITY, ring.id), self._names, ring.lost, {})
        begin = end = ring.consumer_number
        batcher.start_at(begin)
        try:
            for first, verdicts in _read_all(ring):
                batcher.add(first, verdicts)
                for batch in batcher.take():
                    end = batch.end
        finally:
            ring.close()
        return end - begin

    def _send(self, folder: Path) -> None:
        ring = Ring(self._node.rig.maps)
        spool = Spool(folder)
        drain = Drain(ring, self._names, spool)
        publisher = Publisher(spool, self._topic, {"bootstrap.servers": self._servers})
        publisher.start()
        try:
            self._warm_up(spool, ring)
            started, cpu = time.perf_counter(), time.process_time()
            drain.start(*_IDENTITY)
            try:
                _wait(lambda: drain.verdicts == self.verdicts and not spool.unacked_batches and not _unread(ring))
                self._add("ring to Kafka", time.perf_counter() - started, time.process_time() - cpu)
            finally:
                drain.stop()
            self.counts["acknowledged"] += drain.verdicts
            self.counts["lost"] += sum(drain.lost().values())
        finally:
            publisher.stop(1.0)
            spool.close()
            ring.close()
        expect(self.counts["lost"], 0, "verdicts that the probe lost")

    def _warm_up(self, spool: Spool, ring: Ring) -> None:
        """Send an empty batch until it is acknowledged, so that the topic exists and the connection is open."""
        batcher = Batcher((*_IDENTITY, ring.id), self._names, ring.lost, {}, Limits(heartbeat_s=0))
        for batch in batcher.take():
            spool.append(batch.value, batch.header)
        _wait(lambda: not spool.unacked_batches)

    def _read_back(self) -> None:
        """Check that the topic has every verdict number once, in order."""
        numbers = [number for batch in _batches(self._servers, self._topic) for number in batch.numbers().tolist()]
        self.counts["read_back"] = len(numbers)
        expect(len(numbers), self.counts["verdicts"], "verdicts on the raw topic")
        if numbers != list(range(numbers[0], numbers[0] + len(numbers))):
            raise BenchError("the verdicts on the raw topic are not in the ring's order")


def _unread(ring: Ring) -> int:
    """Return the number of verdicts between the ring's consumer and producer positions."""
    return ring.producer_number - ring.consumer_number


def _read_all(ring: Ring) -> Iterator[tuple[int, Verdicts]]:
    while True:
        first, verdicts = ring.read(_READ_VERDICTS)
        if not len(verdicts):
            return
        yield first, verdicts


def _wait(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _TIMEOUT_S
    while not done():
        if time.monotonic() > deadline:
            raise BenchError(f"Kafka has not acknowledged all batches within {_TIMEOUT_S:.0f} s")
        time.sleep(0.001)


def _batches(servers: str, topic: Topic) -> Iterator[Batch]:
    """Read all batches of a topic in which all records have the same key, and so are in one partition."""
    consumer = Consumer({"bootstrap.servers": servers, "group.id": "bench", "enable.auto.commit": False})
    try:
        partitions = [TopicPartition(topic.name, partition, 0) for partition in range(topic.partitions)]
        remaining = sum(consumer.get_watermark_offsets(partition, _TIMEOUT_S)[1] for partition in partitions)
        consumer.assign(partitions)
        deadline = time.monotonic() + _TIMEOUT_S
        while remaining and time.monotonic() < deadline:
            for message in consumer.consume(min(remaining, 1000), 1.0):
                remaining -= 1
                yield decode_batch(message.value() or b"")
        expect(remaining, 0, "batches that were not read back")
    finally:
        consumer.close()
