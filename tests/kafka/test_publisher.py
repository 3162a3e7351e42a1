"""The probe's publisher on a real Apache Kafka: order, keys, refused batches, and a topic that differs."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from confluent_kafka.admin import AdminClient, NewTopic

from enrich.wire.batch import decode_batch
from enrich.wire.topics import Topic, topics
from probe.export.publisher import Publisher
from probe.export.spool import Spool
from tests.kafka.batches import make_batch
from tests.kafka.site import Site, until
from tests.probe.export.spooling import append

pytestmark = pytest.mark.kafka

ROWS = 10


def raw(site: Site) -> Topic:
    return topics(site.prefix, 4).raw


def make_topic(site: Site, partitions: int, config: Mapping[str, str]) -> None:
    admin = AdminClient({"bootstrap.servers": site.broker})
    admin.create_topics([NewTopic(raw(site).name, partitions, config=dict(config))])[raw(site).name].result(120)


def publisher_of(site: Site, spool: Spool) -> Publisher:
    return Publisher(spool, raw(site), {"bootstrap.servers": site.broker})


def test_the_topic_is_created_and_batches_are_sent_in_order_with_their_rings_key(site: Site) -> None:
    spool = Spool(site.folder / "spool")
    # What an outage left, of the ring before a reboot and of the one after it.
    for number in range(300):
        append(spool, make_batch(number * ROWS, ROWS, {"ring": "old" if number < 150 else "new"}))
    publisher = publisher_of(site, spool)
    publisher.start()
    assert publisher.stop(60)
    messages = site.read("verdicts.raw", lambda found: len(found) >= 300)
    assert len(messages) == 300
    for ring, first in (("old", 0), ("new", 150)):
        mine = [message for message in messages if message.key() == f"c1/n1/{ring}".encode()]
        assert len({message.partition() for message in mine}) == 1
        headers = [decode_batch(message.value() or b"").header for message in mine]
        assert [(one.ring, one.first) for one in headers] == [(ring, n * ROWS) for n in range(first, first + 150)]
    assert (spool.unacked_batches, publisher.acked_batches, publisher.problem) == (0, 300, None)


def test_a_refused_batch_is_counted_and_harms_no_other(site: Site) -> None:
    make_topic(site, 4, {**raw(site).config, "max.message.bytes": "5000"})
    spool = Spool(site.folder / "spool")
    sizes = [ROWS, ROWS, 2000, ROWS, 1500, ROWS]
    for number, verdicts in enumerate(sizes):
        # Ports at random, so that compression does not make it small.
        append(spool, make_batch(number * 10_000, verdicts, source_port=_noise(verdicts), time_ns=_noise(verdicts)))
    publisher = publisher_of(site, spool)
    publisher.start()
    assert publisher.stop(60)
    assert not publisher.failed.is_set()
    assert spool.lost() == {"spool_full": 0, "refused": 3500}
    assert Spool(site.folder / "spool").lost() == spool.lost()
    messages = site.read("verdicts.raw", lambda found: len(found) >= 4)
    headers = [decode_batch(message.value() or b"").header for message in messages]
    assert [one.first for one in headers] == [0, 10_000, 30_000, 50_000]


def _noise(verdicts: int) -> object:
    import numpy as np

    return np.random.default_rng(verdicts).integers(0, 1 << 16, verdicts)


def test_a_batch_of_another_version_is_counted_and_harms_no_other(site: Site) -> None:
    written = Spool(site.folder / "spool")
    for number in range(3):
        value = make_batch(number * ROWS, ROWS)
        written.append(value.replace(b'"verdicts":', b'"rows":') if number == 1 else value, decode_batch(value).header)
    # Opened again, because the headers of appended batches are handed on in memory.
    spool = Spool(site.folder / "spool")
    publisher = publisher_of(site, spool)
    publisher.start()
    assert publisher.stop(60)
    assert not publisher.failed.is_set()
    assert spool.lost() == {"spool_full": 0, "refused": ROWS}
    messages = site.read("verdicts.raw", lambda found: len(found) >= 2)
    assert [decode_batch(message.value() or b"").header.first for message in messages] == [0, 2 * ROWS]


def test_a_batch_too_large_for_librdkafka_is_counted(site: Site) -> None:
    spool = Spool(site.folder / "spool")
    append(spool, make_batch(0, ROWS))
    append(spool, make_batch(1000, 100_000))
    append(spool, make_batch(200_000, ROWS))
    publisher = publisher_of(site, spool)
    publisher.start()
    assert publisher.stop(60)
    assert spool.lost()["refused"] == 100_000
    assert len(site.read("verdicts.raw", lambda found: len(found) >= 2)) == 2


def test_nothing_is_sent_to_a_topic_that_differs(site: Site) -> None:
    make_topic(site, 1, {})
    spool = Spool(site.folder / "spool")
    append(spool, make_batch(0, ROWS))
    publisher = publisher_of(site, spool)
    publisher.start()
    until(lambda: "has a wrong configuration" in (publisher.problem or "") or None, "the problem")
    problem = publisher.problem or ""
    assert "it has 1 partitions, not 4" in problem
    assert "message.timestamp.type is CreateTime, not LogAppendTime" in problem
    assert not publisher.stop(0.1)
    assert spool.unacked_batches == 1
    # Made anew, it is sent.
    admin = AdminClient({"bootstrap.servers": site.broker})
    admin.delete_topics([raw(site).name])[raw(site).name].result(120)
    publisher = publisher_of(site, spool_again := Spool(site.folder / "spool"))
    publisher.start()
    assert publisher.stop(60)
    assert spool_again.unacked_batches == 0


def test_at_most_a_quarter_of_the_spool_is_in_flight(site: Site) -> None:
    spool = Spool(site.folder / "spool", max_bytes=200_000)
    value = make_batch(0, 150)
    for _ in range(12):
        append(spool, value)
    publisher = Publisher(spool, raw(site), {"bootstrap.servers": "127.0.0.1:1"})
    # As its thread does, which would look for the topic first.
    producer = publisher._rebuild()
    for _ in range(100):
        publisher._step(producer)
    held = publisher._in_flight.bytes
    assert 50_000 <= held < 50_000 + len(value)
    producer.purge()
