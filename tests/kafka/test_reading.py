"""Topics that are read without a group, while retention removes records."""

from __future__ import annotations

import secrets
from typing import Any

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from streams.kafka import connection
from streams.kafka.reading import read_committed

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(900)]


def test_what_retention_leaves_is_read_although_it_passed_the_offset_to_begin_at(
    broker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    topic = f"t{secrets.token_hex(4)}"
    admin, producer = AdminClient({"bootstrap.servers": broker}), Producer({"bootstrap.servers": broker})
    admin.create_topics([NewTopic(topic, 1)])[topic].result(120)
    for number in range(10):
        producer.produce(topic, str(number))
    assert producer.flush(120) == 0

    class Late(Consumer):  # type: ignore[misc]  # it has no types
        def assign(self, partitions: Any) -> None:
            admin.delete_records([TopicPartition(topic, 0, 5)])[TopicPartition(topic, 0)].result(120)
            super().assign(partitions)

    monkeypatch.setattr(connection, "Consumer", Late)
    found = read_committed({"bootstrap.servers": broker}, topic, [0], since_ms=1)
    assert [record.offset for record in found] == [5, 6, 7, 8, 9]
