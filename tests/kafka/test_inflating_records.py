"""Compressed batches that inflate to more than a worker has memory for, on a real Apache Kafka."""

from __future__ import annotations

import secrets
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic

from streams.kafka.group import GroupReader
from streams.kafka.next_record import has_record
from streams.kafka.reading import TopicReader, read_committed
from streams.kafka.records import Record
from tests.kafka.batches import make_batch
from tests.kafka.inflating import batch, produce
from tests.kafka.site import Service, Site, until

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(900)]

_MIB = 1 << 20
INFLATING: dict[str, tuple[str, list[int]]] = {
    "one record of 1 GB by zstd": ("zstd", [1_000_000_000]),
    "600 records by zstd, 600 MB together": ("zstd", [1_000_000] * 600),
    "600 records by gzip, 600 MB together": ("gzip", [1_000_000] * 600),
    "600 records by lz4, 600 MB together": ("lz4", [1_000_000] * 600),
    "a million records by zstd without a value": ("zstd", [-1] * 2_000_000),
}
"""Codec and sizes of the values, by what is wrong."""


def peak_mib(service: Service) -> int:
    """The most memory that a process has had at once."""
    status = Path(f"/proc/{service.process.pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) >> 10


def test_a_batch_that_inflates_too_far_is_passed_over_by_the_enricher(site: Site) -> None:
    service = site.start_enrich()
    before = peak_mib(service)
    topic = f"{site.prefix}.verdicts.raw"
    made = []
    for number, (codec, sizes) in enumerate(INFLATING.values()):
        assert produce(site.broker, topic, number % 4, batch(codec, sizes)) == 0
        made.append(len(sizes))
        site.send(make_batch(number * 5, 5))
        site.flush()
    flows = site.read_flows(5 * len(INFLATING))
    assert {flow["id"] for flow in flows} == {f"r1-{number}" for number in range(5 * len(INFLATING))}
    dead = site.read("dead", lambda found: len(found) >= len(INFLATING))
    headers: list[dict[str, Any]] = [dict(message.headers() or []) for message in dead]
    assert [one["reason"] for one in headers] == [b"too_large"] * len(INFLATING)
    assert peak_mib(service) - before < 200
    assert service.metric('kubeweir_streams_dead_letters_total{reason="too_large"}') == len(INFLATING)
    assert service.metric("kubeweir_streams_expired_batches_total") == 0
    until(lambda: service.get("/readyz")[0] == 200 or None, "readiness")
    assert service.stop() == 0
    # What was passed over is committed: the next worker reads none of it.
    again = site.start_enrich()
    site.send(make_batch(1000, 5))
    site.flush()
    site.read_flows(5 * len(INFLATING) + 5)
    assert again.metric('kubeweir_streams_dead_letters_total{reason="too_large"}') == 0
    assert again.metric("kubeweir_streams_expired_batches_total") == 0
    assert again.stop() == 0


UNREADABLE = ("zstd", [1_000_000] * 300)
"""A batch that librdkafka cannot read: it inflates no zstd so far."""


def make_topic(broker: str) -> str:
    """Make a topic of one partition: a record, a batch of 300 that inflate too far, and a record of offset 301."""
    name = f"t{secrets.token_hex(4)}"
    admin = AdminClient({"bootstrap.servers": broker})
    admin.create_topics([NewTopic(name, 1)])[name].result(120)
    producer = Producer({"bootstrap.servers": broker})
    for value in (b"first", None, b"last"):
        if value is None:
            assert produce(broker, name, 0, batch(*UNREADABLE)) == 0
        else:
            producer.produce(name, value)
            assert producer.flush(120) == 0
    return name


@pytest.mark.parametrize("before", [0, 1])
def test_a_batch_that_inflates_too_far_at_the_end_of_a_partition_is_passed_over(broker: str, before: int) -> None:
    name, connection = f"t{secrets.token_hex(4)}", {"bootstrap.servers": broker}
    admin = AdminClient(connection)
    admin.create_topics([NewTopic(name, 1)])[name].result(120)
    for _ in range(before + 1):
        assert produce(broker, name, 0, batch(*UNREADABLE)) == 0
    member = GroupReader(connection, f"{name}.group", name)
    expected = [299, 599][: before + 1]
    assert [one.offset for one in taken(member, len(expected))] == expected
    member.close()


def described(records: list[Record]) -> list[tuple[int, bytes, str]]:
    """Return offset, value, and the beginning of why a record was not read."""
    return [(one.offset, one.value, one.unread[:33]) for one in records]


def taken(reader: TopicReader | GroupReader, count: int) -> list[Record]:
    """Take so many records."""
    found: list[Record] = []

    def look() -> list[Record] | None:
        found.extend(reader.take(100, 0.5))
        return found if len(found) >= count else None

    return until(look, "the records")


PASSED_OVER = [(0, b"first", ""), (300, b"", "the batch of records 1 to 300 was"), (301, b"last", "")]


def test_a_batch_that_inflates_too_far_is_passed_over_by_each_reader(broker: str) -> None:
    topic, connection = make_topic(broker), {"bootstrap.servers": broker}
    found = list(read_committed(connection, topic, [0]))
    assert described(found) == PASSED_OVER

    reader = TopicReader(connection, topic)
    reader.start({0: 0})
    assert described(taken(reader, 3)) == PASSED_OVER
    reader.close()

    member = GroupReader(connection, f"{topic}.group", topic)
    found = taken(member, 3)
    assert described(found) == PASSED_OVER
    member.commit(found[:2])
    member.close()
    # What was passed over is committed.
    again = GroupReader(connection, f"{topic}.group", topic)
    assert described(until(lambda: again.take(100, 0.5) or None, "the last record")) == PASSED_OVER[2:]
    again.close()

    assert has_record(connection, f"{topic}.group", (topic, 0), 1, 30), "it is one, although it cannot be read"


def test_the_bound_of_what_a_reader_inflates_is_one_of_its_memory(broker: str) -> None:
    topic = make_topic(broker)
    code = (
        "import resource, sys; from streams.kafka.reading import read_committed; "
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss; "
        "list(read_committed({'bootstrap.servers': sys.argv[1]}, sys.argv[2], [0])); "
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    run = subprocess.run([sys.executable, "-c", code, broker, topic], capture_output=True, text=True, check=True)
    assert int(run.stdout.split()[-1]) < 100 << 10
