"""How long `weir sql` takes to scan the verdicts of a day: counted, and with columns of text."""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic

from enrich.wire.batch import INGRESS, VERDICT, EndpointRef, Header, PolicyRef, Reason, Verdict, encode_batch
from tests.bench_history.row import Row
from tests.kafka.broker import running_broker

PARTITIONS: Final = 8
NODES: Final = 100
_PER_BATCH: Final = 5_000
_PODS: Final = 30
_CLIENTS: Final = 5_000
QUERIES: Final = {
    "count(*)": "SELECT count(*) AS n FROM verdicts",
    "by disposition and port": "SELECT disposition, dest_port, sum(count) AS n FROM verdicts GROUP BY ALL ORDER BY n",
    "the worst peers": "SELECT subject_pod_name, peer_ip, count(*) AS n FROM verdicts WHERE disposition = 'deny' "
    "GROUP BY ALL ORDER BY n DESC LIMIT 20",
    "by policy": "SELECT policies[1].name AS policy, count(*) AS n FROM verdicts GROUP BY ALL ORDER BY n",
}


def rows() -> Iterator[Row]:
    """Yield a row for each query and size."""
    for verdicts in (1_000_000, 10_000_000):
        with (
            tempfile.TemporaryDirectory(prefix="kubeweir-bench-") as folder,
            running_broker(Path(folder)) as servers,
        ):
            fill(servers, "queries", verdicts)
            for name, query in QUERIES.items():
                yield ask(servers, "queries", name, query, verdicts)


def fill(servers: str, prefix: str, verdicts: int) -> None:
    """Write the verdicts of many nodes, as their probes would."""
    admin = AdminClient({"bootstrap.servers": servers})
    config = {"message.timestamp.type": "LogAppendTime", "max.message.bytes": str(8 << 20)}
    for future in admin.create_topics([NewTopic(f"{prefix}.verdicts.raw", PARTITIONS, 1, config=config)]).values():
        future.result(30)
    producer = Producer({"bootstrap.servers": servers, "partitioner": "murmur2_random", "compression.type": "lz4"})
    random = np.random.default_rng(1)
    made = [_verdicts(random) for _ in range(8)]
    for number in range(verdicts // _PER_BATCH):
        header = _header(number)
        producer.produce(f"{prefix}.verdicts.raw", encode_batch(header, made[number % len(made)]), header.key)
        while len(producer) > 50:
            producer.poll(0.05)
    assert producer.flush(120) == 0


def _verdicts(random: np.random.Generator) -> np.ndarray:
    found = np.zeros(_PER_BATCH, VERDICT)
    found["time_ns"] = np.sort(random.integers(0, 10**9, _PER_BATCH))
    for name in ("source", "destination"):
        found[name][:, 10:12] = 0xFF
    found["source"][:, 12:] = (10, 1, 0, 0)
    clients = random.integers(0, _CLIENTS, _PER_BATCH)
    found["source"][:, 14], found["source"][:, 15] = clients >> 8, clients & 0xFF
    found["destination"][:, 12:] = (10, 2, 0, 7)
    found["source_port"] = random.integers(32_768, 61_000, _PER_BATCH)
    found["destination_port"] = random.choice([80, 443, 5432, 8080], _PER_BATCH)
    found["protocol"], found["count"], found["endpoint"] = 6, 1, random.integers(1, _PODS, _PER_BATCH)
    denied = random.random(_PER_BATCH) < 0.1
    found["verdict"] = np.where(denied, Verdict.DENY, Verdict.ALLOW) | INGRESS
    found["reason"] = np.where(denied, Reason.DEFAULT_DENY, Reason.POLICY)
    found["rule"] = random.integers(1, 50, _PER_BATCH)
    return found


def _header(number: int) -> Header:
    node = number % NODES
    return Header(
        v=1, cluster="c1", node=f"node-{node}", ring=f"ring-{node}", first=number // NODES * _PER_BATCH,
        verdicts=_PER_BATCH, verdict_bytes=VERDICT.itemsize, clock=time.time_ns() - 10**9,
        endpoints={str(one): EndpointRef("shop", f"web-{node}-{one}", f"uid-{node}-{one}") for one in range(_PODS)},
        rules={str(one): [PolicyRef("NetworkPolicy", "shop", f"allow-{one}", 0)] for one in range(50)},
    )  # fmt: skip


def ask(servers: str, prefix: str, name: str, query: str, verdicts: int) -> Row:
    """Run `weir sql` with a query. The start of Python counts."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    weir = [sys.executable, "-m", "streams.cli.main", "sql", "--kafka", servers, "--topic-prefix", prefix]
    done = subprocess.run([*weir, "--since", "1h", "-o", "json", query], capture_output=True, text=True, check=True)
    seconds, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    assert name != "count(*)" or done.stdout == f'{{"n":{verdicts}}}\n', done.stdout
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    about = f"{cpu:.2f} s of a core, at most {after.ru_maxrss >> 10} MiB, {_PER_BATCH:,} verdicts a batch"
    return Row(f"sql {name} of {verdicts:,} verdicts", seconds, verdicts, about)
