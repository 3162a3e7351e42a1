"""The address history on a real Kafka: a worker names pods that were deleted before it started."""

from __future__ import annotations

import time

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, ConfigResource, ResourceType

from enrich.wire.address_interval import AddressInterval, OwnerRef, encode_interval
from enrich.wire.topics import topics
from probe.export.interval_publisher import AddressIntervalPublisher
from tests.kafka.batches import make_batch, mapped
from tests.kafka.site import Site, until

pytestmark = pytest.mark.kafka
S = 1_000_000_000


def make_interval(pod: str, ip: str, start: int, end: int | None = None, **facts: object) -> AddressInterval:
    labels, owner = {"app": "gone"}, OwnerRef("StatefulSet", "db")
    return AddressInterval(
        cluster=str(facts.get("cluster", "c1")), node="n2", ip=ip, uid=f"uid-{pod}", namespace="shop", pod=pod,
        first=start, start=start, end=end, last=end, labels=labels, owner=owner, ahead=int(str(facts.get("ahead", 0))),
    )  # fmt: skip


def test_a_pod_that_was_deleted_while_no_worker_ran_is_named(site: Site) -> None:
    service = site.start_enrich(WEIR_CLUSTER="c1")
    service.wait_for("address history read", records=0)
    assert service.stop() == 0
    now = time.time_ns()
    producer = Producer({"bootstrap.servers": site.broker, "partitioner": "murmur2_random"})
    topic = f"{site.prefix}.endpoints"
    published = [
        make_interval("first", "10.0.0.99", now - 100 * S, now - 60 * S),
        make_interval("second", "10.0.0.99", now - 50 * S, now - 20 * S),
        make_interval("theirs", "10.0.0.99", now - 100 * S, cluster="c2"),
        make_interval("back", "10.0.0.98", now - 100 * S, now - 60 * S),
    ]
    for interval in published:
        producer.produce(topic, encode_interval(interval), interval.key)
    producer.produce(topic, None, published[3].key)
    producer.produce(topic, b"?", b"c1/n2/10.0.0.97/uid-x")
    assert producer.flush(120) == 0
    ages = ((80, "10.0.0.99"), (55, "10.0.0.99"), (30, "10.0.0.99"), (59.5, "10.0.0.99"), (80, "10.0.0.98"))
    for number, (age, ip) in enumerate(ages):
        since = (time.time_ns() - now) / S
        site.send(make_batch(number, 1, age_s=age + since, destination=mapped(ip)))
    site.flush()
    service = site.start_enrich(WEIR_CLUSTER="c1")
    service.wait_for("address history read", records=6)
    flows = {int(flow["id"].rpartition("-")[2]): flow["dest"] for flow in site.read_flows(len(ages))}
    assert [flows[0]["pod_name"], flows[2]["pod_name"]] == ["first", "second"]
    assert (flows[0]["workload_kind"], flows[0]["labels"], flows[0]["node_name"]) == (
        "StatefulSet",
        {"app": "gone"},
        "n2",
    )
    assert flows[1] == {"instance": "10.0.0.99"}, "no pod had it then"
    assert flows[3] == {"instance": "10.0.0.99", "ambiguous": True}, "within the skew of its end"
    assert flows[4] == {"instance": "10.0.0.98"}, "its interval was removed"
    assert service.metric("kubeweir_streams_bad_address_interval_records_total") == 1


def test_a_probe_creates_the_topic_and_the_last_record_of_each_interval_counts(site: Site) -> None:
    topic = topics(site.prefix, 4).endpoints
    publisher = AddressIntervalPublisher(topic, {"bootstrap.servers": site.broker})
    interval = make_interval("web", "10.0.0.1", 5)
    publisher.publish({interval.key: encode_interval(interval), b"c1/n2/10.0.0.2/uid-old": None})
    until(lambda: True if publisher.published == 2 else None, lambda: f"two records: {publisher.problem}")
    publisher.stop(5)
    found = {message.key(): message.value() for message in site.read("endpoints", lambda read: len(read) >= 2)}
    assert found == {interval.key: encode_interval(interval), b"c1/n2/10.0.0.2/uid-old": None}
    resource = ConfigResource(ResourceType.TOPIC, topic.name)
    admin = AdminClient({"bootstrap.servers": site.broker})
    entries = admin.describe_configs([resource])[resource].result(120)
    config = {name: entry.value for name, entry in entries.items()}
    assert topic.differences(1, config) == []
