"""What Faust has fetched and dropped while a group was balanced anew is read again, on a real Apache Kafka."""

from __future__ import annotations

import asyncio

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic

from streams.worker.bounded_app import seek_to_committed
from tests.kafka.site import Site

pytestmark = pytest.mark.kafka

RECORDS = 10


@pytest.mark.parametrize("committed", [None, 0, 4])
def test_records_that_were_dropped_are_read_again(site: Site, committed: int | None) -> None:
    topic = f"{site.prefix}.dropped"
    admin = AdminClient(site.connection)
    admin.create_topics([NewTopic(topic, 1)])[topic].result()
    producer = Producer(site.connection)
    for number in range(RECORDS):
        producer.produce(topic, b"%d" % number)
    assert producer.flush(120) == 0

    async def scenario() -> list[bytes]:
        place = TopicPartition(topic, 0)
        consumer = AIOKafkaConsumer(
            topic, bootstrap_servers=site.broker, group_id=site.prefix, auto_offset_reset="earliest",
            enable_auto_commit=False,
        )  # fmt: skip
        await consumer.start()
        try:
            assert len(await read(consumer, place)) == RECORDS, "these are dropped"
            if committed is not None:
                await consumer.commit({place: committed})
            assert await seek_to_committed(consumer) == {place: committed}
            return await read(consumer, place)
        finally:
            await consumer.stop()

    assert asyncio.run(scenario()) == [b"%d" % number for number in range(committed or 0, RECORDS)]


async def read(consumer: AIOKafkaConsumer, place: TopicPartition) -> list[bytes]:
    """Read up to the last record."""
    found: list[bytes] = []
    while not found or found[-1] != b"%d" % (RECORDS - 1):
        for records in (await asyncio.wait_for(consumer.getmany(timeout_ms=500), 60)).values():
            found += [record.value for record in records]
        if not found and place in consumer.assignment() and await consumer.position(place) == RECORDS:
            return found  # nothing comes any more
    return found
