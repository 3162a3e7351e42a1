"""Verdicts a second from a full raw topic to one ``flows`` record each, beside plain Faust.

The raw topic is filled, then a worker is started on it as a process and catches up. The end offsets of ``flows`` are
looked at from outside, many times a second: time and CPU count from the last look that found nothing to the one that
found everything, so that starting and joining are not in it. Every round does all cases, plain Faust first, so that the
ratios compare what ran next to each other. No row has to wait for the cluster's index: it knows every pod, and the rows
are older than :mod:`streams.worker.pending` would let them wait.
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
from tests.bench.result import BenchError, Figure, Part, expect, say
from tests.bench.routes import TAKEN, write_routes
from tests.bench.scale import Scale
from tests.bench.verdicts import DENIED, NODES, batches_of, key_of, objects_of, rows_of, write_manifests

_ROOT: Final = Path(__file__).parents[2]
_AIM_TIMES: Final = {1000: 40.0}
_ROUTED_SIZE: Final = 1000
_AIM_ROUTED: Final = 0.85
_PARTITIONS: Final = 8
_PATIENCE_S: Final = 120.0
_LOOK_S: Final = 0.02
_PLAIN: Final = "plain Faust, one JSON a verdict"
_WITHOUT: Final = "share of that with none"
_WALL, _CPU = "verdicts/s", "verdicts/CPU s"
_CPUCLOCK_SCHED: Final = 2
_NOT_YET: Final = frozenset(
    {KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError.LEADER_NOT_AVAILABLE, KafkaError.UNKNOWN_TOPIC_OR_PART}
)
"""What a broker says of a topic that was made just now."""


def measure(scale: Scale, folder: Path, servers: str) -> Part:
    """Plain Faust and all batch sizes, some rounds."""
    write_manifests(folder / "manifests")
    bench = _Bench(folder, servers)
    for number in range(scale.streams_rounds):
        of = f"round {number + 1} of {scale.streams_rounds}"
        say(f"streams: {of}, plain Faust, {scale.plain_rows:,} verdicts")
        plain = bench.plain(scale.plain_rows)
        for size, rows in scale.streams_rows.items():
            say(f"streams: {of}, batches of {size:,}, {rows:,} verdicts")
            bench.batches(size, rows, plain)
    how = (
        "A worker catches up with a full raw topic of 8 partitions; one record in ten goes to flows.denied too. "
        "Batches: `weir-streams enrich` as a process. Plain Faust: the same index, the same records, one JSON verdict "
        "in and one topic.send out at a time. Ten routes: the same worker, batches of 1,000, with a file of ten, for "
        "topics of their own; what they take it produces besides. CPU is the worker's; Kafka runs on the same cores. "
        "Counted at the end offsets of flows."
    )
    return Part("Raw topic to one record a verdict", how, bench.figures(), bench.counts)


class _Bench:
    """Samples by (case, measure); what went in and came out."""

    def __init__(self, folder: Path, servers: str) -> None:
        self._folder, self._servers = folder, servers
        self._admin = AdminClient({"bootstrap.servers": servers, "log_level": 0})
        self._samples: dict[tuple[str, str], list[float]] = {}
        self.counts = {"verdicts": 0, "flows": 0, "denied": 0, "flows_denied": 0}

    def figures(self) -> list[Figure]:
        """In the order in which they were first taken."""
        aims = {(_case(size), "times plain Faust"): aim for size, aim in _AIM_TIMES.items()}
        aims[_routed_case("some"), _WITHOUT] = _AIM_ROUTED
        return [Figure(*name, tuple(samples), aims.get(name)) for name, samples in self._samples.items()]

    def plain(self, rows: int) -> tuple[float, float]:
        """One round of plain Faust: its verdicts a second of time and of CPU."""
        made = self._topics()
        share = rows // len(NODES)
        self._fill(
            made.raw, ((key_of(node), value) for node in NODES for value in objects_of(node, rows_of(node, share)))
        )
        return self._catch_up(_PLAIN, made, [sys.executable, "-m", "tests.bench.plain"], share * len(NODES))

    def batches(self, size: int, rows: int, plain: tuple[float, float]) -> None:
        """One round with batches of ``size``, compared with the round's plain Faust."""
        made = self._topics()
        share = rows // len(NODES)
        values = ((key_of(node), v) for node in NODES for v in batches_of(node, rows_of(node, share), size))
        self._fill(made.raw, values)
        command = [sys.executable, "-m", "streams.main", "enrich", "--alone"]
        wall, cpu = self._catch_up(_case(size), made, command, share * len(NODES))
        self._note(_case(size), "times plain Faust", wall / plain[0])
        self._note(_case(size), "times plain Faust, CPU", cpu / plain[1])
        if size == _ROUTED_SIZE:
            for taken in TAKEN:
                say(f"streams: the same with ten routes {TAKEN[taken]}")
                self._routed(taken, rows, (wall, cpu))

    def _routed(self, taken: str, rows: int, without: tuple[float, float]) -> None:
        """The same once more with ten routes, compared with what it was just before without."""
        made = self._topics()
        share = rows // len(NODES)
        values = ((key_of(node), v) for node in NODES for v in batches_of(node, rows_of(node, share), _ROUTED_SIZE))
        self._fill(made.raw, values)
        path = self._folder / "routes.yaml"
        write_routes(path, made.raw.name.removesuffix(".verdicts.raw"), taken)
        command = [sys.executable, "-m", "streams.main", "enrich", "--alone"]
        wall, cpu = self._catch_up(_routed_case(taken), made, command, share * len(NODES), WEIR_ROUTES=str(path))
        self._note(_routed_case(taken), _WITHOUT, wall / without[0])
        self._note(_routed_case(taken), f"{_WITHOUT}, CPU", cpu / without[1])

    def _note(self, case: str, measure: str, sample: float) -> None:
        self._samples.setdefault((case, measure), []).append(sample)

    def _topics(self) -> Topics:
        """New ones, so that every round begins with nothing."""
        made = topics(f"bench{secrets.token_hex(3)}", _PARTITIONS)
        prepare_topics({"bootstrap.servers": self._servers}, made, 0, threading.Event())
        return made

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
        expect(producer.flush(_PATIENCE_S), 0, "raw records that Kafka did not take")

    def _catch_up(self, case: str, made: Topics, command: Sequence[str], rows: int, **more: str) -> tuple[float, float]:
        prefix = made.raw.name.removesuffix(".verdicts.raw")
        env = {
            **os.environ,
            "PYTHONPATH": str(_ROOT),
            "WEIR_KAFKA": self._servers,
            "WEIR_TOPIC_PREFIX": prefix,
            "WEIR_PARTITIONS": str(_PARTITIONS),
            "WEIR_SOURCE": f"manifests:{self._folder / 'manifests'}",
            "WEIR_METRICS": "127.0.0.1:0",
            "WEIR_LOG_LEVEL": "warning",
            # It goes when the bench does, even by kill -9.
            "WEIR_SUPERVISED": "1",
            **more,
        }
        log = self._folder / f"{prefix}.log"
        with log.open("wb") as file:
            # Plain Faust makes a folder where it is started.
            worker = subprocess.Popen(
                command, cwd=self._folder, env=env, stdin=subprocess.DEVNULL, stdout=file, stderr=file
            )
        try:
            wall_s, cpu_s = self._watch(worker, made.flows, rows, log)
            self._stop(worker, log)
            self._count(made, rows)
        finally:
            worker.kill()
            worker.wait()
        self._admin.delete_topics([topic.name for topic in made])
        self._note(case, _WALL, rows / wall_s)
        self._note(case, _CPU, rows / cpu_s)
        return rows / wall_s, rows / cpu_s

    def _watch(self, worker: subprocess.Popen[bytes], flows: Topic, rows: int, log: Path) -> tuple[float, float]:
        """Seconds of time, and of the worker's CPU, from the last look that found nothing to everything."""
        deadline = time.monotonic() + _PATIENCE_S
        began = (0.0, 0.0)
        while True:
            now = (time.perf_counter(), cpu_seconds(worker))
            found = self._ends(flows)
            if not found:
                began = now
            elif found >= rows:
                return time.perf_counter() - began[0], cpu_seconds(worker) - began[1]
            if time.monotonic() > deadline:
                raise BenchError(f"{found:,} of {rows:,} records after {_PATIENCE_S:.0f} s: {log.read_text()[-2000:]}")
            if worker.poll() is not None:
                raise BenchError(f"the worker ended: {log.read_text()[-2000:]}")
            time.sleep(_LOOK_S)

    @staticmethod
    def _stop(worker: subprocess.Popen[bytes], log: Path) -> None:
        worker.terminate()
        if worker.wait(_PATIENCE_S) not in (0, -15):
            raise BenchError(f"the worker ended with {worker.returncode}: {log.read_text()[-2000:]}")

    def _count(self, made: Topics, rows: int) -> None:
        """Afterwards, when nothing can come any more: none lost, none twice."""
        denied = sum(-(-share // DENIED) for share in [rows // len(NODES)] * len(NODES))
        for name, wanted, topic in (("flows", rows, made.flows), ("flows_denied", denied, made.denied)):
            found = self._ends(topic)
            expect(found, wanted, f"records on {topic.name}")
            self.counts[name] += found
        self.counts["verdicts"] += rows
        self.counts["denied"] += denied

    def _ends(self, topic: Topic) -> int:
        """Records on a topic, by its end offsets."""
        asked = {TopicPartition(topic.name, partition): OffsetSpec.latest() for partition in range(topic.partitions)}
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            try:
                return sum(future.result(_PATIENCE_S).offset for future in self._admin.list_offsets(asked).values())
            except KafkaException as error:
                if error.args[0].code() not in _NOT_YET or time.monotonic() > deadline:
                    raise
                time.sleep(_LOOK_S)


def _case(size: int) -> str:
    return f"weir-streams, batches of {size:,}"


def _routed_case(taken: str) -> str:
    return f"the same with ten routes, {TAKEN[taken]}"


def cpu_seconds(process: subprocess.Popen[bytes]) -> float:
    """CPU time of all threads of another process: its clock's id is made of its pid (clock_getcpuclockid(3))."""
    return time.clock_gettime((~process.pid << 3) | _CPUCLOCK_SCHED)
