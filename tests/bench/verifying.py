"""How long `weir verify` takes to judge the records of an hour.

.venv/bin/python -m tests.bench.verifying --records 1000000
"""

from __future__ import annotations

import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

import click
import msgspec
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic

from enrich.model import Pod, Protocol
from enrich.policy.decide import Decision
from enrich.policy.matching import Direction, Endpoint, PolicyView
from enrich.wire.address_interval import encode_interval
from enrich.wire.batch import PolicyRef, Reason, Verdict
from enrich.wire.journal import HEARTBEAT, JournalEntry, encode_entry
from tests.bench.machine import describe
from tests.bench.report import print_table, write_json
from tests.bench.result import Figure, Part, expect, say
from tests.enrich.history.flows_of_worlds import flow_of, intervals_of
from tests.enrich.history.journals import CLUSTER, at, begin, entry, namespace, node, policy
from tests.enrich.history.pairs_of_worlds import profiles_of
from tests.kafka.broker import running_broker

_NAMESPACES: Final = 20
_PODS: Final = 2_000
COMBINATIONS: Final = 100_000
_PARTITIONS: Final = 32
_HOUR_S: Final = 3_600
_CHANGES: Final = 60
"""Changes of policies in the hour, each of one namespace."""
_DENIED: Final = Decision(Verdict.DENY, Reason.DEFAULT_DENY, (PolicyRef("NetworkPolicy", "", "own"),))


def _pods() -> list[Pod]:
    return [
        Pod(
            f"shop-{number % _NAMESPACES}", f"web-{number:04}", f"4b1c7c3e-6a53-4f6e-9e0d-1f8f{number:08}",
            {"app": f"app-{number // _NAMESPACES % 10}"}, (f"10.0.{number // 250}.{number % 250 + 1}",),
            node=f"node-{number % 30}",
        )
        for number in range(_PODS)
    ]  # fmt: skip


def _policy(number: int, version: int) -> Any:
    """Return a policy that lets nobody of this benchmark in. Its versions differ in a port."""
    peers = [{"podSelector": {"matchLabels": {"app": "nobody"}}}, {"ipBlock": {"cidr": "203.0.113.0/24"}}]
    spec = {"podSelector": {}, "ingress": [{"from": peers, "ports": [{"port": 1024 + version}]}]}
    return policy("own", spec, f"shop-{number}")


def _journal(pods: list[Pod]) -> list[JournalEntry]:
    view = PolicyView({pod.key: pod for pod in pods}, {}, {}, {}, {})
    found = [begin(), *(entry(one, 0) for one in profiles_of(view).values())]
    found += [entry(node(f"node-{number}", f"192.168.0.{number}"), 0) for number in range(30)]
    for number in range(_NAMESPACES):
        found += [entry(namespace(f"shop-{number}"), 0), entry(_policy(number, 0), 0)]
    for change in range(_CHANGES):
        found.append(entry(_policy(change % _NAMESPACES, change + 1), 100 + change * _HOUR_S / _CHANGES))
    return [*found, JournalEntry(cluster=CLUSTER, kind=HEARTBEAT, seen_ns=time.time_ns())]


def _texts(pods: list[Pod]) -> Iterator[tuple[str, list[str]]]:
    """Yield the key and the text of each combination, without its port, times and number."""
    view = PolicyView({pod.key: pod for pod in pods}, {}, {}, {}, {})
    chosen = random.Random(1)  # noqa: S311 - a fixed seed
    for number in range(COMBINATIONS):
        own, peer = chosen.sample(pods, 2)
        ref = msgspec.structs.replace(_DENIED.policies[0], namespace=own.namespace)
        query = own, Direction.INGRESS, Endpoint(peer.ips[0], peer), Protocol.TCP, 5000 + number % 8
        flow = flow_of(view, query, Decision(Verdict.DENY, Reason.DEFAULT_DENY, (ref,)), 0)
        made = msgspec.json.encode(msgspec.structs.replace(flow, timestamp="~Z", last_timestamp="~Z", id="4be0a7c9-~"))
        yield f"{own.namespace}/{own.name}", made.decode().replace('"src_port":40001', '"src_port":~').split("~")


def _records(pods: list[Pod], count: int) -> Iterator[tuple[str, str, int]]:
    """Yield keys, values and times of records, evenly over the hour."""
    texts = list(_texts(pods))
    second, text = 0, ""
    for number in range(count):
        key, (head, to_time, between, to_id, end) = texts[number * 7919 % COMBINATIONS]
        ns = at(50 + _HOUR_S * number / count)
        if ns // 10**9 != second:
            second = ns // 10**9
            text = f"{datetime.fromtimestamp(second, UTC):%Y-%m-%dT%H:%M:%S}."
        when = f"{text}{ns % 10**9:09}"
        value = f"{head}{number % 28_000 + 32_768}{to_time}{when}{between}{when}{to_id}{number}{end}"
        yield key, value, ns // 1_000_000


def fill(servers: str, prefix: str, count: int) -> None:
    """Write a journal, address intervals, and the records of an hour."""
    admin = AdminClient({"bootstrap.servers": servers})
    partitions = {"flows": _PARTITIONS, "journal": 1, "endpoints": 1}
    made = [NewTopic(f"{prefix}.{name}", number, 1) for name, number in partitions.items()]
    for future in admin.create_topics(made).values():
        future.result(30)
    producer = Producer({
        "bootstrap.servers": servers, "partitioner": "murmur2_random", "compression.type": "lz4", "linger.ms": 50,
        "queue.buffering.max.messages": 500_000,
    })  # fmt: skip
    pods = _pods()
    for one in _journal(pods):
        producer.produce(f"{prefix}.journal", encode_entry(one), one.key, timestamp=one.seen_ns // 1_000_000)
    for interval in intervals_of(PolicyView({pod.key: pod for pod in pods}, {}, {}, {}, {})):
        producer.produce(f"{prefix}.endpoints", encode_interval(interval), interval.key)
    for number, (key, value, at_ms) in enumerate(_records(pods, count)):
        producer.produce(f"{prefix}.flows", value, key, timestamp=at_ms)
        if number % 10_000 == 0:
            while len(producer) > 400_000:
                producer.poll(0.05)
            producer.poll(0)
        if number % 1_000_000 == 0:
            say(f"{number:,} of {count:,} records written")
    expect(producer.flush(120), 0, "records that Kafka did not take")


class Answer(NamedTuple):
    """How long `weir verify` took. The start of Python counts."""

    wall_s: float
    cpu_s: float
    peak_mib: float
    read: int
    disagree: int


def ask(servers: str, prefix: str) -> Answer:
    """Run `weir verify`."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    weir = [sys.executable, "-m", "streams.cli.main", "verify", "--kafka", servers, "--topic-prefix", prefix]
    window = ["--since", f"{at(0) // 10**9}", "--until", f"{at(_HOUR_S + 100) // 10**9}"]
    window = [str(datetime.fromtimestamp(int(one), UTC).isoformat()) if one.isdigit() else one for one in window]
    done = subprocess.run([*weir, "-o", "json", *window], stdout=subprocess.PIPE, check=False)
    wall = time.monotonic() - began
    expect(done.returncode, 0, "the exit code of weir verify")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    found = json.loads(done.stdout)
    return Answer(wall, cpu, after.ru_maxrss / 1024, found["read"], found["outcomes"]["disagrees"])


def measure(servers: str, count: int, rounds: int = 3) -> Part:
    """Fill topics, and judge all records."""
    prefix = f"verifying{count}"
    fill(servers, prefix, count)
    taken = [ask(servers, prefix) for _ in range(rounds)]
    expect(min(one.read for one in taken), count, "the records read")
    case = f"{count:,} records, {COMBINATIONS:,} distinct"
    figures = [
        Figure(case, "seconds", tuple(one.wall_s for one in taken), 60.0 * count / 10_000_000),
        Figure(case, "seconds of a core", tuple(one.cpu_s for one in taken)),
        Figure(case, "MiB at most", tuple(one.peak_mib for one in taken)),
    ]
    how = (
        f"{count:,} records of an hour, {_PODS:,} pods in {_NAMESPACES} namespaces, {_CHANGES} changes of policies, "
        f"{_PARTITIONS} partitions of one broker; weir verify is started each time."
    )
    return Part(f"Judging {count:,} records again", how, figures, {"records": count, "disagree": taken[0].disagree})


@click.command()
@click.option("--records", "counts", type=int, multiple=True, default=(1_000_000,), show_default=True)
@click.option("--rounds", type=int, default=3, show_default=True)
@click.option("--json", "path", type=click.Path(path_type=Path), default=Path("build/verifying.json"))
def command(counts: tuple[int, ...], rounds: int, path: Path) -> None:
    """Measure how long `weir verify` takes."""
    with tempfile.TemporaryDirectory(prefix="kubeweir-bench-") as folder:
        machine = describe(Path(folder))
        with running_broker(Path(folder)) as servers:
            parts = {f"verifying-{count}": measure(servers, count, rounds) for count in counts}
    write_json(path, parts, machine, quick=False)
    print_table(parts, machine)


if __name__ == "__main__":
    command(prog_name="python -m tests.bench.verifying")
