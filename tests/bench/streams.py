"""Measure verdicts per second from a full raw topic to one ``flows`` record for each, beside plain Faust.

1. The raw topic is filled.
2. A worker starts as a process and catches up. The bench polls the end offsets of ``flows`` many times per second. Time
   and CPU count from the last poll that found no record to the one that found all, so that starting the worker and
   joining the consumer group are not included.
3. Every round runs all cases, plain Faust first, so that the ratios compare runs that are close in time.

No verdict is held back for attribution: the index knows every pod, and the verdicts are older than the attribution wait
of :mod:`streams.worker.pending`.
"""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from confluent_kafka import KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from enrich.wire.topics import Topic, Topics, topics
from streams.kafka.topics import prepare_topics
from tests.bench.pair_cost import measure_cost
from tests.bench.result import BenchError, Figure, Part, expect, say
from tests.bench.routes import MATCHED, write_routes
from tests.bench.scale import Scale
from tests.bench.verdicts import DENIED, NODES, key_of, make_batches, make_objects, make_verdicts, write_manifests

_ROOT: Final = Path(__file__).parents[2]
_AIM_TIMES: Final = {1000: 40.0}
_ROUTED_SIZE: Final = 1000
_AIM_ROUTED: Final = 0.85
_PARTITIONS: Final = 8
_TIMEOUT_S: Final = 120.0
_POLL_S: Final = 0.02
_PLAIN: Final = "plain Faust, one JSON record per verdict"
_OF_UNROUTED: Final = "times without routes"
_WALL, _CPU = "verdicts/s", "verdicts/CPU s"
_CPUCLOCK_SCHED: Final = 2
_NOT_YET: Final = frozenset(
    {KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError.LEADER_NOT_AVAILABLE, KafkaError.UNKNOWN_TOPIC_OR_PART}
)
"""Errors that a broker returns for a topic that was created a moment ago."""


def measure(scale: Scale, folder: Path, servers: str) -> Part:
    """Measure plain Faust and all batch sizes in each round."""
    write_manifests(folder / "manifests")
    bench = _Bench(folder, servers)
    for number in range(scale.streams_rounds):
        title = f"round {number + 1} of {scale.streams_rounds}"
        say(f"streams: {title}, plain Faust, {scale.plain_verdicts:,} verdicts")
        plain = bench.plain(scale.plain_verdicts)
        for size, count in scale.streams_verdicts.items():
            say(f"streams: {title}, batches of {size:,}, {count:,} verdicts")
            bench.batches(size, count, plain)
    how = (
        "A worker catches up with a full raw topic of 8 partitions; one record in ten is sent to flows.denied too. "
        "weir-streams: `weir-streams enrich` as a process. Plain Faust: the same index and the same records; it "
        "receives one JSON verdict and calls topic.send once at a time. Pairs: of 6,000 combinations, in turns with "
        "and without, from the raw batches to Kafka's acknowledgements, without the consumer. Ten routes: the "
        "same worker and batches of 1,000, with a file of ten routes to other topics; records that a route matches are "
        "produced once more. CPU is the worker's; Kafka runs on the same cores. Records are counted by the end offsets "
        "of flows."
    )
    figures = [*bench.figures(), *measure_cost(scale, folder / "manifests", servers)]
    return Part("Raw topic to one record per verdict", how, figures, bench.counts)


class _Bench:
    """Samples by (case, measure), and counts of input and output."""

    def __init__(self, folder: Path, servers: str) -> None:
        self._folder, self._servers = folder, servers
        self._admin = AdminClient({"bootstrap.servers": servers, "log_level": 0})
        self._samples: dict[tuple[str, str], list[float]] = {}
        self.counts = {"verdicts": 0, "flows": 0, "denied": 0, "flows_denied": 0}

    def figures(self) -> list[Figure]:
        """Return the figures in the order in which they were first measured."""
        aims = {(_case(size), "times plain Faust"): aim for size, aim in _AIM_TIMES.items()}
        aims[_routed_case("some"), _OF_UNROUTED] = _AIM_ROUTED
        return [Figure(*name, tuple(samples), aims.get(name)) for name, samples in self._samples.items()]

    def plain(self, count: int) -> tuple[float, float]:
        """Measure plain Faust once; return its verdicts per second of time and of CPU."""
        own_topics = self._make_topics()
        share = count // len(NODES)
        values = ((key_of(node), v) for node in NODES for v in make_objects(node, make_verdicts(node, share)))
        self._fill(own_topics.raw, values)
        return self._catch_up(_PLAIN, own_topics, [sys.executable, "-m", "tests.bench.plain"], share * len(NODES))

    def batches(self, size: int, count: int, plain: tuple[float, float]) -> None:
        """Measure batches of ``size`` once, in comparison with the round's plain Faust."""
        own_topics = self._make_topics()
        share = count // len(NODES)
        values = ((key_of(node), v) for node in NODES for v in make_batches(node, make_verdicts(node, share), size))
        self._fill(own_topics.raw, values)
        command = [sys.executable, "-m", "streams.main", "enrich", "--alone"]
        wall, cpu = self._catch_up(_case(size), own_topics, command, share * len(NODES))
        self._add(_case(size), "times plain Faust", wall / plain[0])
        self._add(_case(size), "times plain Faust, CPU", cpu / plain[1])
        if size == _ROUTED_SIZE:
            for matched in MATCHED:
                say(f"streams: the same with ten routes {MATCHED[matched]}")
                self._routed(matched, count, (wall, cpu))

    def _routed(self, matched: str, count: int, unrouted: tuple[float, float]) -> None:
        """Measure the same with ten routes, in comparison with the run without routes just before."""
        own_topics = self._make_topics()
        share = count // len(NODES)
        values = (
            (key_of(node), v) for node in NODES for v in make_batches(node, make_verdicts(node, share), _ROUTED_SIZE)
        )
        self._fill(own_topics.raw, values)
        path = self._folder / "routes.yaml"
        write_routes(path, own_topics.raw.name.removesuffix(".verdicts.raw"), matched)
        command = [sys.executable, "-m", "streams.main", "enrich", "--alone"]
        case = _routed_case(matched)
        wall, cpu = self._catch_up(case, own_topics, command, share * len(NODES), WEIR_ROUTES=str(path))
        self._add(case, _OF_UNROUTED, wall / unrouted[0])
        self._add(case, f"{_OF_UNROUTED}, CPU", cpu / unrouted[1])

    def _add(self, case: str, measure: str, sample: float) -> None:
        self._samples.setdefault((case, measure), []).append(sample)

    def _make_topics(self) -> Topics:
        """Create topics with a new prefix, so that every run starts with empty ones."""
        own_topics = topics(f"bench{secrets.token_hex(3)}", _PARTITIONS)
        prepare_topics({"bootstrap.servers": self._servers}, own_topics, 0, threading.Event())
        return own_topics

    def _fill(self, raw: Topic, records: Iterable[tuple[bytes, bytes]]) -> None:
        producer = Producer(
            {"bootstrap.servers": self._servers, "compression.type": "lz4", "partitioner": "murmur2_random",
             "linger.ms": 5, "message.max.bytes": 4 << 20}
        )  # fmt: skip
        for key, value in records:
            while True:
                try:
                    producer.produce(raw.name, value, key)
                    break
                except BufferError:
                    producer.poll(0.1)
        expect(producer.flush(_TIMEOUT_S), 0, "raw records that Kafka did not acknowledge")

    def _catch_up(
        self, case: str, own_topics: Topics, command: Sequence[str], count: int, **more: str
    ) -> tuple[float, float]:
        prefix = own_topics.raw.name.removesuffix(".verdicts.raw")
        env = {
            **os.environ,
            "PYTHONPATH": str(_ROOT),
            "WEIR_KAFKA": self._servers,
            "WEIR_TOPIC_PREFIX": prefix,
            "WEIR_PARTITIONS": str(_PARTITIONS),
            "WEIR_SOURCE": f"manifests:{self._folder / 'manifests'}",
            "WEIR_METRICS": "127.0.0.1:0",
            "WEIR_LOG_LEVEL": "warning",
            # With this, the kernel ends the worker when the bench ends, even if that was killed.
            "WEIR_SUPERVISED": "1",
            **more,
        }
        log = self._folder / f"{prefix}.log"
        with log.open("wb") as file:
            # Plain Faust makes a folder in its working directory.
            worker = subprocess.Popen(
                command, cwd=self._folder, env=env, stdin=subprocess.DEVNULL, stdout=file, stderr=file
            )
        try:
            wall_s, cpu_s = self._watch(worker, own_topics.flows, count, log)
            self._stop(worker, log)
            self._check_counts(own_topics, count)
        finally:
            worker.kill()
            worker.wait()
        self._admin.delete_topics([topic.name for topic in own_topics])
        self._add(case, _WALL, count / wall_s)
        self._add(case, _CPU, count / cpu_s)
        return count / wall_s, count / cpu_s

    def _watch(self, worker: subprocess.Popen[bytes], flows: Topic, count: int, log: Path) -> tuple[float, float]:
        """Return the seconds of time and of CPU from the last poll without records to the one with all of them."""
        deadline = time.monotonic() + _TIMEOUT_S
        started = (0.0, 0.0)
        while True:
            now = (time.perf_counter(), cpu_seconds(worker))
            found = self._record_count(flows)
            if not found:
                started = now
            elif found >= count:
                return time.perf_counter() - started[0], cpu_seconds(worker) - started[1]
            if time.monotonic() > deadline:
                raise BenchError(f"{found:,} of {count:,} records after {_TIMEOUT_S:.0f} s: {log.read_text()[-2000:]}")
            if worker.poll() is not None:
                raise BenchError(f"the worker ended; its log ends with: {log.read_text()[-2000:]}")
            time.sleep(_POLL_S)

    @staticmethod
    def _stop(worker: subprocess.Popen[bytes], log: Path) -> None:
        worker.terminate()
        if worker.wait(_TIMEOUT_S) not in (0, -15):
            raise BenchError(f"the worker ended with exit code {worker.returncode}: {log.read_text()[-2000:]}")

    def _check_counts(self, own_topics: Topics, count: int) -> None:
        """After the worker has ended, check that no record was lost and none was written twice."""
        denied = sum(-(-share // DENIED) for share in [count // len(NODES)] * len(NODES))
        for name, expected, topic in (("flows", count, own_topics.flows), ("flows_denied", denied, own_topics.denied)):
            found = self._record_count(topic)
            expect(found, expected, f"records on {topic.name}")
            self.counts[name] += found
        self.counts["verdicts"] += count
        self.counts["denied"] += denied

    def _record_count(self, topic: Topic) -> int:
        """Return the number of records on a topic, by its end offsets."""
        ends = {TopicPartition(topic.name, partition): OffsetSpec.latest() for partition in range(topic.partitions)}
        deadline = time.monotonic() + _TIMEOUT_S
        while True:
            try:
                return sum(future.result(_TIMEOUT_S).offset for future in self._admin.list_offsets(ends).values())
            except KafkaException as error:
                if error.args[0].code() not in _NOT_YET or time.monotonic() > deadline:
                    raise
                time.sleep(_POLL_S)


def _case(size: int) -> str:
    return f"weir-streams, batches of {size:,}"


def _routed_case(matched: str) -> str:
    return f"the same with ten routes {MATCHED[matched]}"


def cpu_seconds(process: subprocess.Popen[bytes]) -> float:
    """Return the CPU time of all threads of a process. The pid gives the id of its clock (clock_getcpuclockid(3))."""
    return time.clock_gettime((~process.pid << 3) | _CPUCLOCK_SCHED)
