"""The topic of checkpoints as a worker reads it, on a real Apache Kafka."""

from __future__ import annotations

import time

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic

from streams.worker.checkpoints import _NEWEST_RECORDS, _read_newest
from tests.kafka.site import Site

pytestmark = pytest.mark.kafka


def test_what_is_needed_is_found_wherever_it_is_and_the_rest_at_the_end_only(site: Site) -> None:
    topic, connection = f"{site.prefix}.checkpoints", {"bootstrap.servers": site.broker}
    admin, producer = AdminClient(connection), Producer(connection)
    admin.create_topics([NewTopic(topic, 1)])[topic].result(120)
    producer.produce(topic, b"early", b"idle")
    for number in range(_NEWEST_RECORDS + 10):
        producer.produce(topic, b"%d" % number, b"busy")
    assert producer.flush(120) == 0

    def read(*needed: bytes) -> dict[bytes, list[bytes]]:
        keys = frozenset((b"idle", b"busy", b"none"))
        found = _read_newest(connection, topic, keys, frozenset(needed), time.monotonic() + 240)
        return {key: list(values) for key, values in found.items()}

    last = [b"%d" % number for number in range(_NEWEST_RECORDS + 8, _NEWEST_RECORDS + 10)]
    assert read(b"busy") == {b"busy": last}
    assert read(b"idle") == read(b"none") == {b"idle": [b"early"], b"busy": last, b"none": []}
