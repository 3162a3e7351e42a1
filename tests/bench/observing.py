"""How long `weir observe` takes to the first line about one pod's last hour, among the records of a day.

.venv/bin/python -m tests.bench.observing --records 1000000
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NamedTuple

import click
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic

from tests.bench.machine import describe
from tests.bench.report import print_table, write_json
from tests.bench.result import Figure, Part, expect, say
from tests.kafka.broker import running_broker

_PODS: Final = 2_000
_PARTITIONS: Final = 32
_DAY_S: Final = 86_400
_POD: Final = "shop-7/web-1007"
CLUSTER: Final = "8a5e2c1d-0f6b-4c7e-9a13-2d4e5f607182"
RECORD_ID: Final = "4be0a7c9-%d"
"""The ids of the records, which are numbered from 0 in the order of time."""
QUESTIONS: Final = {
    "--subject, last hour": ("--subject", _POD, "--since", "1h"),
    "--pod, last hour": ("--pod", _POD, "--since", "1h"),
    "--subject, all day": ("--subject", _POD, "--since", "1d"),
}
_RECORD: Final = (
    '{"connection":{"src_ip":"10.0.0.1","dest_ip":"10.0.0.2","src_port":40000,"dest_port":8080,"protocol":"tcp",'
    '"direction":"egress"},"disposition":"allow","reason":"policy","policies":[{"kind":"NetworkPolicy","namespace":'
    '"%s","name":"web-allow-api"}],"isolated_by":[],"src":{"pod_name":"%s","namespace":"%s","pod_namespace":"%s",'
    '"workload_kind":"Deployment","workload_name":"web","pod_uid":"4b1c7c3e-6a53-4f6e-9e0d-1f8f54f0a001","labels":'
    '{"app":"web","pod-template-hash":"7d9c5b6f4"},"node_name":"node-1"},"dest":{"pod_name":"api-%d","namespace":'
    '"back","pod_namespace":"back","workload_kind":"Deployment","workload_name":"api","labels":{"app":"api"},'
    '"node_name":"node-2"},"count":1,"timestamp":"%s%09dZ","last_timestamp":"%s%09dZ","node_name":"node-1",'
    f'"cluster":"{CLUSTER}","schema":1,"id":"{RECORD_ID}"}}'
)


def _pod(number: int) -> tuple[str, str]:
    return f"shop-{number % 20}", f"web-{number}"


def _records(count: int, end: float) -> Iterator[tuple[str, str, int]]:
    """Yield keys, values and times of records, evenly over the day before ``end``."""
    second, text = 0, ""
    for number in range(count):
        at = end - _DAY_S + _DAY_S * number / count
        if int(at) != second:
            second = int(at)
            text = f"{datetime.fromtimestamp(second, UTC):%Y-%m-%dT%H:%M:%S}."
        ns = int(at % 1 * 1e9)
        namespace, pod = _pod(number * 7919 % _PODS)
        value = _RECORD % (namespace, pod, namespace, namespace, number % 50, text, ns, text, ns, number)
        yield f"{namespace}/{pod}", value, int(at * 1000)


def fill(servers: str, prefix: str, count: int) -> None:
    """Write the records of a day that ends now."""
    admin = AdminClient({"bootstrap.servers": servers})
    topics = [NewTopic(f"{prefix}.flows", _PARTITIONS, 1)]
    for future in admin.create_topics(topics).values():
        future.result(30)
    producer = Producer({
        "bootstrap.servers": servers, "partitioner": "murmur2_random", "compression.type": "lz4", "linger.ms": 50,
        "queue.buffering.max.messages": 500_000,
    })  # fmt: skip
    for number, (key, value, at_ms) in enumerate(_records(count, time.time())):
        producer.produce(f"{prefix}.flows", value, key, timestamp=at_ms)
        if number % 10_000 == 0:
            while len(producer) > 400_000:
                producer.poll(0.05)
            producer.poll(0)
        if number % 1_000_000 == 0:
            say(f"{number:,} of {count:,} records written")
    expect(producer.flush(120), 0, "records that Kafka did not take")


class Answer(NamedTuple):
    """How long `weir observe` took. The start of Python counts."""

    first_s: float
    """Seconds to the first line."""
    end_s: float
    cpu_s: float
    """Seconds of a core, which other programs on the machine change little."""
    lines: int


def ask(servers: str, prefix: str, arguments: tuple[str, ...]) -> Answer:
    """Run `weir observe` with some arguments."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    weir = [sys.executable, "-m", "streams.cli.main", "observe", "--kafka", servers, "--topic-prefix", prefix]
    with subprocess.Popen([*weir, "-o", "json", *arguments], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        first = time.monotonic() - began
        lines = 1 + sum(1 for _ in process.stdout)
    expect(process.returncode, 0, "the exit code of weir observe")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Answer(first, time.monotonic() - began, cpu, lines)


def measure(servers: str, count: int, rounds: int = 3) -> Part:
    """Fill a topic and ask about one pod."""
    prefix = f"observing{count}"
    fill(servers, prefix, count)
    figures, found = [], {}
    for question, arguments in QUESTIONS.items():
        say(question)
        taken = [ask(servers, prefix, arguments) for _ in range(rounds)]
        aim = 1.0 if question == "--subject, last hour" else None
        case = f"{question}, of {count:,} records"
        figures += [
            Figure(case, "seconds to the first line", tuple(one.first_s for one in taken), aim),
            Figure(case, "seconds to the end", tuple(one.end_s for one in taken)),
            Figure(case, "seconds of a core", tuple(one.cpu_s for one in taken)),
        ]
        found[f"lines of {question}"] = taken[0].lines
    how = (
        f"{count:,} records of {_PODS:,} pods over a day in {_PARTITIONS} partitions of one broker; weir observe is "
        "started each time."
    )
    return Part(f"Observing a past of {count:,} records", how, figures, {"records": count, **found})


@click.command()
@click.option("--records", "counts", type=int, multiple=True, default=(1_000_000,), show_default=True)
@click.option("--json", "path", type=click.Path(path_type=Path), default=Path("build/observing.json"))
def command(counts: tuple[int, ...], path: Path) -> None:
    """Measure how long `weir observe` takes on a long past."""
    with tempfile.TemporaryDirectory(prefix="kubeweir-bench-") as folder:
        machine = describe(Path(folder))
        with running_broker(Path(folder)) as servers:
            parts = {f"observing-{count}": measure(servers, count) for count in counts}
    write_json(path, parts, machine, quick=False)
    print_table(parts, machine)


if __name__ == "__main__":
    command(prog_name="python -m tests.bench.observing")
