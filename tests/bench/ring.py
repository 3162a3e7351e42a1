"""Verdicts a second from the kernel's ring buffer to batches that Kafka has acknowledged.

The ring is filled by the real program: one BPF_PROG_RUN a row, each a new connection that the policy allows. That is
slow (a system call a row), so it is not part of what is timed. Then the drain, the batcher, the spool and the sender
run as the probe puts them together, on a connection to Kafka that was used before, until Kafka has acknowledged the
last batch. What is on the topic is read back: every row number once, in order.
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
_PATIENCE_S: Final = 60.0
_PARTITIONS: Final = 8
_READ_ROWS: Final = 20_000
"""As the probe's drain takes them."""
_PORTS: Final = 50_000


def measure(scale: Scale, node: Node, folder: Path, servers: str) -> Part:
    """Fill, look at the full ring, then send it; some rounds."""
    bench = _Bench(node, folder, servers, scale.ring_batches * Limits().verdicts)
    for number in range(scale.ring_rounds):
        say(f"ring: round {number + 1} of {scale.ring_rounds}, {bench.rows:,} verdicts")
        bench.round(number)
    how = (
        f"{bench.rows:,} new connections, every second one IPv6, wait in a ring of the default size. Read: the rows "
        "are copied out. Batched: and put into batches with their names. To Kafka: drain, batcher, spool and publisher "
        "as in weir-probe, acks=all, until Kafka has acknowledged the last batch. CPU is this process' own; Kafka runs "
        "on the same cores."
    )
    return Part("Off the kernel: ring buffer to acknowledged Kafka batches", how, bench.figures(), bench.counts)


class _Bench:
    """Samples by (case, measure); what went in and came out."""

    def __init__(self, node: Node, folder: Path, servers: str, rows: int) -> None:
        self._node, self._folder, self._servers = node, folder, servers
        self.rows = rows
        self._names = LedgerReferences(node.rig.numbers)
        self._topic = topics(f"bench{secrets.token_hex(3)}", _PARTITIONS).raw
        self._sequence = itertools.count(1)
        self._samples: dict[tuple[str, str], list[float]] = {}
        self.counts = {"verdicts": 0, "acknowledged": 0, "read_back": 0, "lost": 0}

    def figures(self) -> list[Figure]:
        """In the order in which they were first taken."""
        aims = {("ring to Kafka", "verdicts/s"): _AIM_PER_S}
        return [Figure(*name, tuple(samples), aims.get(name)) for name, samples in self._samples.items()]

    def round(self, number: int) -> None:
        """One full ring."""
        self._node.inside(self._fill)
        self.counts["verdicts"] += self.rows
        self._timed("ring read", self._read)
        self._timed("ring read and batched", self._batch)
        self._send(self._folder / f"spool-{number}")
        self._read_back()

    def _fill(self) -> None:
        for number in itertools.islice(self._sequence, self.rows):
            frame = syn(6 if number % 2 else 4, 1024 + number % _PORTS, OPEN_PORT, number)
            if self._node.run(frame)[0] != PASS:
                raise BenchError("the program denies what the policy allows")

    def _timed(self, case: str, work: Callable[[], int]) -> None:
        began, cpu = time.perf_counter(), time.process_time()
        expect(work(), self.rows, f"verdicts, {case}")
        self._note(case, time.perf_counter() - began, time.process_time() - cpu)

    def _note(self, case: str, wall_s: float, cpu_s: float) -> None:
        self._samples.setdefault((case, "verdicts/s"), []).append(self.rows / wall_s)
        self._samples.setdefault((case, "verdicts/CPU s"), []).append(self.rows / cpu_s)

    def _read(self) -> int:
        """Without giving the place back: the next reader finds the same rows."""
        ring = Ring(self._node.rig.maps)
        try:
            return sum(len(rows) for _, rows in _runs(ring))
        finally:
            ring.close()

    def _batch(self) -> int:
        ring = Ring(self._node.rig.maps)
        batcher = Batcher((*_IDENTITY, ring.id), self._names, ring.lost, {})
        begin = end = ring.consumer_number
        batcher.start_at(begin)
        try:
            for first, rows in _runs(ring):
                batcher.add(first, rows)
                for batch in batcher.take():
                    end = batch.end
        finally:
            ring.close()
        return end - begin

    def _send(self, folder: Path) -> None:
        ring = Ring(self._node.rig.maps)
        spool = Spool(folder)
        delivery = Drain(ring, self._names, spool)
        publisher = Publisher(spool, self._topic, {"bootstrap.servers": self._servers})
        publisher.start()
        try:
            self._warm(spool, ring)
            began, cpu = time.perf_counter(), time.process_time()
            delivery.start(*_IDENTITY)
            try:
                _wait(lambda: delivery.verdicts == self.rows and not spool.unacked_batches and not _left(ring))
                self._note("ring to Kafka", time.perf_counter() - began, time.process_time() - cpu)
            finally:
                delivery.stop()
            self.counts["acknowledged"] += delivery.verdicts
            self.counts["lost"] += sum(delivery.lost().values())
        finally:
            publisher.stop(1.0)
            spool.close()
            ring.close()
        expect(self.counts["lost"], 0, "verdicts that the probe lost")

    def _warm(self, spool: Spool, ring: Ring) -> None:
        """An empty batch, acknowledged: the topic is made and the connection is open."""
        batcher = Batcher((*_IDENTITY, ring.id), self._names, ring.lost, {}, Limits(heartbeat_s=0))
        for batch in batcher.take():
            spool.append(batch.value, batch.header)
        _wait(lambda: not spool.unacked_batches)

    def _read_back(self) -> None:
        """Every number once, in order."""
        numbers = [number for batch in _batches(self._servers, self._topic) for number in batch.numbers().tolist()]
        self.counts["read_back"] = len(numbers)
        expect(len(numbers), self.counts["verdicts"], "verdicts on the raw topic")
        if numbers != list(range(numbers[0], numbers[0] + len(numbers))):
            raise BenchError("the verdicts on the raw topic are not in the ring's order")


def _left(ring: Ring) -> int:
    """Verdicts whose place was not given back."""
    return ring.producer_number - ring.consumer_number


def _runs(ring: Ring) -> Iterator[tuple[int, Verdicts]]:
    while True:
        first, rows = ring.read(_READ_ROWS)
        if not len(rows):
            return
        yield first, rows


def _wait(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while not done():
        if time.monotonic() > deadline:
            raise BenchError(f"Kafka has not acknowledged everything within {_PATIENCE_S:.0f} s")
        time.sleep(0.001)


def _batches(servers: str, topic: Topic) -> Iterator[Batch]:
    """All that is on a topic of one key."""
    consumer = Consumer({"bootstrap.servers": servers, "group.id": "bench", "enable.auto.commit": False})
    try:
        partitions = [TopicPartition(topic.name, partition, 0) for partition in range(topic.partitions)]
        left = sum(consumer.get_watermark_offsets(partition, _PATIENCE_S)[1] for partition in partitions)
        consumer.assign(partitions)
        deadline = time.monotonic() + _PATIENCE_S
        while left and time.monotonic() < deadline:
            for message in consumer.consume(min(left, 1000), 1.0):
                left -= 1
                yield decode_batch(message.value() or b"")
        expect(left, 0, "batches that were not read back")
    finally:
        consumer.close()
