"""``python -m tests.bench_watch.history [SIZE ...]``: the time in which a worker reads address intervals from Kafka.

A worker attributes no verdict before it has read the topic `<prefix>.endpoints`. SIZE is a number of intervals, of
which a third are still open. Each size is read by its own process, which prints a line of JSON: seconds, CPU seconds,
and the memory of the index in MB.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import structlog
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic
from prometheus_client import CollectorRegistry

from enrich.index.cluster import NAMED_KINDS, Cluster
from enrich.wire.address_interval import AddressInterval, OwnerRef, encode_interval
from enrich.wire.topics import topics
from streams.kafka.reading import TopicReader
from streams.metrics.roles import EnrichMetrics
from streams.worker.address_history import AddressHistory
from tests.bench_watch.server import address
from tests.kafka.broker import run_broker

_ROOT: Final = Path(__file__).parents[2]
_SIZES: Final = (100_000, 1_000_000)
_S: Final = 1_000_000_000


def _interval(number: int, count: int, now: int) -> AddressInterval:
    """Return an interval. There are a third as many addresses: each belonged to three pods, one after the other."""
    third = count // 3 or 1
    start = now - 3600 * _S * (3 - number // third) + number * 1000
    end = None if number // third >= 2 else start + 3500 * _S
    app = number % third // 20
    return AddressInterval(
        cluster="c1", node=f"node-{number % third // 20:05d}", ip=address(number % third), first=start, start=start,
        uid=f"{number:08x}-0000-4000-8000-000000000000", namespace=f"team-{app % 97}",
        pod=f"app-{app:05d}-6d4cf56db6-{number:06x}", end=end, last=end,
        labels={"app": f"app-{app:05d}", "pod-template-hash": "6d4cf56db6", "team": f"team-{app % 97}", "tier": "web"},
        owner=OwnerRef("ReplicaSet", f"app-{app:05d}-6d4cf56db6", f"5b0c6a4e-0000-4000-8000-{app:012x}"),
    )  # fmt: skip


def _fill(broker: str, prefix: str, count: int) -> float:
    """Create the topic and write the intervals; return their size in MB."""
    topic = topics(prefix, 1).endpoints
    admin = AdminClient({"bootstrap.servers": broker})
    created = admin.create_topics([NewTopic(topic.name, topic.partitions, 1, config=dict(topic.config))])
    for future in created.values():
        future.result(30)
    producer, now, size = Producer({"bootstrap.servers": broker, "linger.ms": 50}), time.time_ns(), 0
    for number in range(count):
        interval = _interval(number, count, now)
        value = encode_interval(interval)
        size += len(value) + len(interval.key)
        while True:
            try:
                producer.produce(topic.name, value, interval.key)
                break
            except BufferError:
                producer.poll(0.1)
    if producer.flush(300):
        raise RuntimeError("Kafka did not acknowledge all intervals within 300 s")
    return size / 1e6


def _read(broker: str, prefix: str) -> dict[str, Any]:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    name = topics(prefix, 1).endpoints.name
    cluster, metrics = Cluster(tail_s=86_400.0, kinds=NAMED_KINDS), EnrichMetrics(CollectorRegistry())
    history = AddressHistory(lambda: TopicReader({"bootstrap.servers": broker}, name), cluster, "c1", metrics)
    memory, cpu, started = _memory(), time.process_time(), time.perf_counter()
    history.start()
    if not history.loaded.wait(600):
        raise RuntimeError(str(history.problem))
    return {
        "seconds": time.perf_counter() - started, "cpu_s": time.process_time() - cpu,
        "memory_mb": (_memory() - memory) / 1e6,
    }  # fmt: skip


def _memory() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def measure(sizes: tuple[int, ...]) -> list[dict[str, Any]]:
    """Return the figures of each size."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        brokers = run_broker(Path(folder))
        broker = next(brokers)
        try:
            for count in sizes:
                size = _fill(broker, f"h{count}", count)
                done = subprocess.run(
                    [sys.executable, "-m", "tests.bench_watch.history", "read", broker, f"h{count}"],
                    cwd=_ROOT, capture_output=True, text=True, check=False,
                )  # fmt: skip
                if done.returncode:
                    raise RuntimeError(done.stderr[-2000:])
                rows.append({"intervals": count, "topic_mb": size, **json.loads(done.stdout)})
        finally:
            brokers.close()  # type: ignore[attr-defined]  # it is a generator
    return rows


if __name__ == "__main__":
    if sys.argv[1:2] == ["read"]:
        print(json.dumps(_read(*sys.argv[2:])), flush=True)
        os._exit(0)
    arguments = argparse.ArgumentParser(prog="python -m tests.bench_watch.history", description=__doc__)
    arguments.add_argument("sizes", metavar="SIZE", type=int, nargs="*", help="intervals [100000 1000000]")
    for row in measure(tuple(arguments.parse_args().sizes) or _SIZES):
        print(json.dumps(row), flush=True)
