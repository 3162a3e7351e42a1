"""A node whose clock is wrong, on a real Apache Kafka."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer

from enrich.wire.address_interval import encode_interval
from enrich.wire.topics import topics
from probe.export.broker_clock import BrokerClock
from probe.export.publisher import Publisher
from probe.export.spool import Spool
from tests.kafka.batches import UP_NS, make_batch, mapped
from tests.kafka.site import Site, until
from tests.kafka.test_history import make_interval
from tests.probe.export.spooling import append

pytestmark = pytest.mark.kafka

S = 1_000_000_000
AHEAD = 10 * S


def test_a_probe_learns_from_the_brokers_answers_how_wrong_its_clock_is(site: Site, tmp_path: Path) -> None:
    ahead = [5 * S]
    spool = Spool(tmp_path / "spool")
    publisher = Publisher(spool, topics(site.prefix, 4).raw, {"bootstrap.servers": site.broker})
    publisher.clock = BrokerClock(lambda: time.time_ns() + ahead[0])
    publisher.start()
    for number, expected in enumerate((5 * S, -3 * S)):
        ahead[0] = expected  # a step of the clock is followed with the next batch, or heartbeat
        append(spool, make_batch(number, 0))
        until(lambda number=number: publisher.acked_batches == number + 1 or None, "the answer")  # type: ignore[misc]  # mypy cannot type a default
        assert publisher.clock.skew is not None
        offset, uncertainty = publisher.clock.skew
        assert abs(offset - expected) <= uncertainty
    publisher.stop(0)
    spool.close()


def test_a_packet_of_a_node_whose_clock_is_wrong_is_named_as_of_the_true_time(site: Site) -> None:
    now = time.time_ns()
    producer = Producer({"bootstrap.servers": site.broker, "partitioner": "murmur2_random"})
    for interval in (
        make_interval("first", "10.0.0.99", now - 60 * S, now - 20 * S),
        make_interval("second", "10.0.0.99", now - 18 * S),
        # A node that is ahead by as much as the first one says of the same times.
        make_interval("third", "10.0.0.98", now - 60 * S + AHEAD, now - 20 * S + AHEAD, ahead=AHEAD),
        make_interval("fourth", "10.0.0.98", now - 18 * S + AHEAD, ahead=AHEAD),
    ):
        producer.produce(f"{site.prefix}.endpoints", encode_interval(interval), interval.key)
    service = site.start_enrich(WEIR_CLUSTER="c1")
    assert producer.flush(120) == 0

    def send(number: int, ip: str, **header: Any) -> None:
        """Send a packet of 25 s ago, from a node that says that it was 15 s ago."""
        clock = time.time_ns() - time.monotonic_ns() - UP_NS + AHEAD
        age_s = 25 + (time.time_ns() - now) / S
        site.send(make_batch(number, 1, {"clock": clock, **header}, age_s=age_s, destination=mapped(ip)))

    until(lambda: service.metric("kubeweir_streams_address_interval_records_total") == 4 or None, "the intervals")
    for number, ip in enumerate(("10.0.0.99", "10.0.0.98")):
        send(number, ip, skew=(AHEAD, S // 100))
    send(2, "10.0.0.99")
    send(3, "10.0.0.99", skew=(AHEAD, 2 * AHEAD))
    send(4, "10.0.0.99", skew=(90_000 * S, 0))
    site.flush()
    flows = sorted(site.read_flows(5), key=lambda flow: str(flow["id"]))
    assert [flow["dest"].get("pod_name") for flow in flows] == ["first", "third", "second", "second", "second"]
    assert len({flow["timestamp"][:17] for flow in flows}) <= 2, "the timestamp is the node's"
    assert service.metric("kubeweir_streams_refused_clock_offsets_total") == 1
    assert service.metric('kubeweir_streams_clock_offset_seconds{node="n1"}') == 90_000
