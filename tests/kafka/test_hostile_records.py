"""Records that no sender of ours makes, on a real Apache Kafka: the worker goes on, and each is accounted for."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import orjson
import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic

from enrich.wire.batch import encode_batch
from tests.kafka.batches import make_batch, make_header, make_rows
from tests.kafka.site import Site, until

pytestmark = pytest.mark.kafka

_MIB = 1 << 20


def altered(**changed: Any) -> bytes:
    """A batch of one verdict whose header has other values, also such as msgspec's encoder refuses."""
    head, _, body = encode_batch(make_header(0, 1, ring="bad"), make_rows(1)).partition(b"\n")
    text = b", ".join(b'"%s": %s' % (name.encode(), value) for name, value in changed.items())
    return head[:-1] + b", " + text + b"}\n" + body


HOSTILE: dict[str, bytes] = {
    "a negative loss": altered(lost=b'{"ring_full": [-1, 1]}'),
    "a loss of more than 64 bits": altered(lost=b'{"ring_full": [36893488147419103232, 36893488147419103232]}'),
    "a reason that is a text of any kind": altered(lost=b'{"\\u0000x y": [1, 1]}'),
    "a namespace that no topic can have": altered(endpoints=b'{"7": {"namespace": "Not A Name!", "pod": "x"}}'),
    "an endpoint number of more than 32 bits": altered(endpoints=b'{"4294967296": {"namespace": "a", "pod": "x"}}'),
    "a node with a newline": altered(node=b'"n1\\n"'),
    "a version that is a text of 4 MB": b'{"v":"' + b"A" * 4_100_000 + b'"}\n',
    "8 MiB, all but what Kafka adds": bytes(range(256)) * (8 * _MIB // 256 - 1),
    "17 MiB that fit because they are compressed": b"\0" * (17 * _MIB),
}
"""By what is wrong."""


def test_no_record_on_the_raw_topic_stops_the_enricher_or_is_lost(site: Site) -> None:
    service = site.start_enrich()
    producer = Producer({"bootstrap.servers": site.broker, "message.max.bytes": 64 * _MIB, "compression.type": "lz4"})
    for number, value in enumerate(HOSTILE.values()):
        producer.produce(f"{site.prefix}.verdicts.raw", value, b"c1/n1/r1")
        assert producer.flush(120) == 0
        site.send(make_batch(number * 5, 5))
        site.flush()
    flows = site.read_flows(5 * len(HOSTILE))
    assert [flow["id"] for flow in flows] == [f"r1-{number}" for number in range(5 * len(HOSTILE))]
    dead = site.read("dead", lambda found: len(found) >= len(HOSTILE))
    for message, (what, value) in zip(dead, HOSTILE.items(), strict=True):
        headers: Any = dict(message.headers() or [])
        kept = message.value() or b""
        if len(value) < 8 * _MIB - (64 << 10):
            assert kept == value, what
        else:
            assert kept == value[: 64 << 10], what
            assert int(headers["original_bytes"]) == len(value)
            assert headers["original_sha256"].decode() == hashlib.sha256(value).hexdigest()
        assert len(headers["error"]) <= 1000
    assert service.get("/readyz")[0] == 200
    assert service.stop() == 0


def test_an_address_interval_that_does_not_parse_is_counted_and_the_next_one_is_used(site: Site) -> None:
    interval = {
        "v": 1,
        "cluster": "c1",
        "node": "n1",
        "uid": "u",
        "namespace": "shop",
        "pod": "p",
        "first": 1,
        "start": 2,
    }
    bad = [{**interval, "ip": "not an address"}, {**interval, "ip": "10.0.0.9", "first": -1},
           {**interval, "ip": "10.0.0.9", "first": 1 << 70}, {**interval, "ip": "10.0.0.9", "end": 3}]  # fmt: skip
    producer = Producer({"bootstrap.servers": site.broker})
    service = site.start_enrich()
    for one in [*bad, {**interval, "ip": "10.0.0.9"}]:
        key = f"c1/n1/{one['ip']}/u".encode()
        value = orjson.dumps(one) if one["first"] != 1 << 70 else b"{}"
        producer.produce(f"{site.prefix}.endpoints", value, key)
    producer.flush(120)
    until(lambda: service.metric("kubeweir_streams_address_interval_records_total") >= 1 or None, "the good interval")
    assert service.metric("kubeweir_streams_bad_address_interval_records_total") == len(bad)
    # A worker that starts reads them all again.
    service.stop()
    again = site.start_enrich()
    assert again.get("/readyz")[0] == 200
    assert again.stop() == 0


def make_small_dead_letter_topic(site: Site) -> None:
    """Make the topic as an operator may: with records of 100 kB at most."""
    admin = AdminClient({"bootstrap.servers": site.broker})
    small = NewTopic(f"{site.prefix}.dead", 1, config={"max.message.bytes": "100000"})
    for future in admin.create_topics([small]).values():
        future.result(120)


@pytest.mark.parametrize("role", ["enrich", "alerts"])
def test_a_dead_letter_that_the_broker_refuses_is_cut_and_keeps_its_headers(site: Site, role: str) -> None:
    make_small_dead_letter_topic(site)
    # No batch and no record, and no compression makes it smaller.
    junk = np.random.default_rng(1).bytes(220_000).replace(b"\n", b" ")
    if role == "enrich":
        service, topic = site.start_enrich(), "verdicts.raw"
    else:
        site.start_enrich()
        service, topic = site.start("alerts", "--alone"), "flows.denied"
    producer = Producer({"bootstrap.servers": site.broker})
    producer.produce(f"{site.prefix}.{topic}", junk, b"c1/n1/r1")
    assert producer.flush(120) == 0
    (dead,) = site.read("dead", lambda found: len(found) >= 1)
    headers: Any = dict(dead.headers() or [])
    assert dead.value() == junk[: 64 << 10]
    assert int(headers["original_bytes"]) == len(junk)
    assert headers["reason"] == (b"no_header" if role == "enrich" else b"no_record")
    assert headers["topic"] == f"{site.prefix}.{topic}".encode()
    # The next one is read.
    site.send(make_batch(0, 5))
    site.flush()
    assert len(site.read_flows(5)) >= 5
    assert service.stop() == 0
