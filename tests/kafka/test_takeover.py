"""What vanishes between two workers, on a real Apache Kafka: a worker takes over where the one before it has ended."""

from __future__ import annotations

import signal
from typing import Any

import orjson
import pytest
from confluent_kafka import ConsumerGroupTopicPartitions, TopicPartition
from confluent_kafka.admin import AdminClient

from streams.worker.checkpoint import newest
from tests.kafka.batches import make_batch
from tests.kafka.site import Service, Site, make_again, until

pytestmark = pytest.mark.kafka


def send(site: Site, first: int, ring: str = "r1", **header: Any) -> None:
    site.send(make_batch(first, 10, {"ring": ring, **header}), key=f"c1/n1/{ring}")
    site.flush()


def killed_after(site: Site, service: Service, next_number: int, ring: str = "r1") -> None:
    """End a worker by kill -9 when the checkpoint says that a ring is finished up to a number."""

    def is_noted() -> bool:
        records = [one.value() or b"" for one in site.read("checkpoints", bool)]
        noted = newest(records)
        return noted is not None and any((one.ring, one.next_number) == (ring, next_number) for one in noted.rings)

    until(is_noted, f"the checkpoint of {ring} at {next_number}")
    service.process.send_signal(signal.SIGKILL)
    service.process.wait()


def losses(site: Site) -> list[dict[str, Any]]:
    """Return what the status topic says, but for heartbeats. A worker must run."""
    site.send(make_batch(0, 0, {"ring": "end"}))
    site.flush()
    messages = site.read("status", lambda found: any(b'"heartbeat"' in (one.value() or b"") for one in found))
    found = [orjson.loads(one.value() or b"") for one in messages]
    kept = ("type", "reason", "ring", "first", "verdicts")
    return [{key: one[key] for key in kept if key in one} for one in found if one["type"] != "heartbeat"]


def delete_all(site: Site) -> None:
    """Remove every record of the raw topic, as retention does, or a broker that has lost its disk."""
    admin = AdminClient(site.connection)
    topic = f"{site.prefix}.verdicts.raw"
    for partition in range(4):
        for future in admin.delete_records([TopicPartition(topic, partition, -1)]).values():
            future.result(120)


def test_verdicts_that_vanish_while_no_worker_reads_are_a_gap(site: Site) -> None:
    service = site.start_enrich()
    send(site, 0)
    send(site, 10, lost={"ring_full": (3, 3)})
    killed_after(site, service, 20)
    for number in range(20, 1000, 10):
        send(site, number)
    delete_all(site)
    send(site, 1000, lost={"ring_full": (0, 4)})
    service = site.start_enrich()
    until(lambda: service.metric("kubeweir_streams_gap_verdicts_total") == 980 or None, "the gap")
    assert service.metric('kubeweir_streams_lost_verdicts_total{reason="ring_full"}') == 1, "3 were reported before"
    killed_after(site, service, 1010)
    # The topic is made again, and Kafka forgets the offsets of its groups.
    make_again(AdminClient(site.connection), f"{site.prefix}.verdicts.raw", 4)
    site.forget_producer()
    send(site, 1500)
    service = site.start_enrich()
    until(lambda: service.metric("kubeweir_streams_gap_verdicts_total") == 490 or None, "the second gap")
    assert service.metric("kubeweir_streams_unknown_gaps_total") == 0
    assert [one for one in losses(site) if one["type"] not in ("lost", "expired")] == [
        {"type": "gap", "reason": "gap", "ring": "r1", "first": 20, "verdicts": 980},
        {"type": "gap", "reason": "gap", "ring": "r1", "first": 1010, "verdicts": 490},
    ]


def test_a_plain_handover_a_kill_and_a_new_ring_are_no_gap(site: Site) -> None:
    sent: dict[str, int] = {}

    def send_more(*rings: str) -> None:
        for ring in rings:
            send(site, sent.get(ring, 0), ring)
            sent[ring] = sent.get(ring, 0) + 10

    service = site.start_enrich()
    send_more("a", "b", "c", "d")
    until(lambda: service.metric("kubeweir_streams_read_verdicts_total") == 40 or None, "the first batches")
    for ring in ("e", "f"):
        # The last batches are read, and perhaps finished, and perhaps noted.
        send_more(*sent)
        service.process.send_signal(signal.SIGKILL)
        service.process.wait()
        send_more(ring)
        service = site.start_enrich()
        send_more(*sent)
    second = site.start_enrich()
    send_more(*sent)
    site.read_flows(sum(sent.values()))
    assert service.stop() == second.stop() == 0
    last = site.start_enrich()
    send_more(*sent)
    site.read_flows(sum(sent.values()))
    assert losses(site) == []
    assert last.metric("kubeweir_streams_unknown_gaps_total") == 0


def test_what_cannot_be_known_is_reported_as_unknown(site: Site) -> None:
    service = site.start_enrich()
    send(site, 0)
    killed_after(site, service, 10)
    # As a version does that writes no checkpoints: verdicts 10 to 39 are finished, or skipped.
    for number in (10, 20, 30):
        send(site, number)
    admin, topic = AdminClient(site.connection), f"{site.prefix}.verdicts.raw"
    ends: dict[int, int] = {}

    def commit_the_end() -> bool:
        """Set the offsets; Kafka refuses while it believes that the killed worker lives."""
        places = [TopicPartition(topic, partition, ends[partition]) for partition in range(4)]
        request = ConsumerGroupTopicPartitions(f"{site.prefix}.c1.enrich", places)
        answer = admin.alter_consumer_group_offsets([request])[request.group_id]
        try:
            return not any(one.error for one in answer.result(120).topic_partitions)
        except Exception:
            return False

    for message in site.read("verdicts.raw", lambda found: len(found) >= 4):
        ends[message.partition()] = message.offset() + 1
    ends = {partition: ends.get(partition, 0) for partition in range(4)}
    until(commit_the_end, "the offsets that were set")
    send(site, 50)
    service = site.start_enrich()
    until(lambda: service.metric("kubeweir_streams_unknown_gaps_total") or None, "what is not known")
    killed_after(site, service, 60)
    send(site, 60)
    service = site.start_enrich()
    [loss] = losses(site)
    assert loss == {"type": "gap_unknown", "reason": "old_checkpoint", "ring": "r1", "first": 10, "verdicts": 40}
