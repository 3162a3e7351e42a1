"""The enricher as a process, on a real Apache Kafka."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import Any

import jsonschema
import orjson
import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic, ResourceType

from enrich.wire.batch import encode_batch
from streams.alerts.counting import RecordCounter
from streams.alerts.deduplicate import Deduplicator
from tests.kafka.batches import make_batch, make_header, make_rows
from tests.kafka.site import Site, until

pytestmark = pytest.mark.kafka

SCHEMA = Path(__file__).parents[2] / "enrich" / "schemas" / "flow.schema.json"


def ids(flows: list[dict[str, Any]]) -> list[str]:
    return [flow["id"] for flow in flows]


def test_each_verdict_becomes_one_record_that_names_both_ends(site: Site) -> None:
    service = site.start_enrich()
    for number in range(10):
        site.send(make_batch(number * 100, 100, denied=number % 2 == 1, ingress=number % 3 == 0))
    site.flush()
    flows = site.read_flows(1000)
    assert ids(flows) == [f"r1-{number}" for number in range(1000)]
    validator = jsonschema.Draft202012Validator(orjson.loads(SCHEMA.read_bytes()))
    for flow in flows:
        validator.validate(flow)
    assert flows[100]["disposition"] == "deny"
    assert flows[100]["isolated_by"] == [{"kind": "NetworkPolicy", "namespace": "shop", "name": "web-allow-api"}]
    assert (flows[0]["src"]["pod_name"], flows[0]["dest"]["pod_name"]) == ("api-0", "web-0")
    assert (flows[100]["src"]["pod_name"], flows[100]["dest"]["pod_name"]) == ("web-0", "api-0")
    denied = site.read_flows(500, "flows.denied")
    assert ids(denied) == [flow["id"] for flow in flows if flow["disposition"] == "deny"]
    until(lambda: service.metric("kubeweir_streams_records_total") == 1500 or None, "1500 acknowledged records")
    assert service.metric("kubeweir_streams_read_verdicts_total") == 1000
    assert service.get("/readyz")[0] == 200
    assert service.stop() == 0


def test_records_are_keyed_by_the_local_pod_and_carry_the_event_time(site: Site) -> None:
    site.start_enrich()
    verdicts = make_rows(2)
    verdicts["time_ns"][1] += 7_200_000_000_000
    site.send(encode_batch(make_header(0, 2), verdicts))
    site.flush()
    early, future = site.read("flows", lambda found: len(found) >= 2)
    assert early.key() == future.key() == b"shop/web-0"
    now = time.time() * 1000
    assert now - 60_000 < early.timestamp()[1] <= now
    assert future.timestamp()[1] <= now, "a broker refuses what is far ahead, and its neighbours with it"


BAD: list[tuple[bytes | None, bytes]] = [
    (b"junk", b"no_header"),
    (None, b"no_value"),
    (b"", b"no_header"),
    (b"[]\n", b"bad_header"),
    (b"{\xff}\n", b"bad_header"),
    (b'{"v": 2}\n', b"unknown_version"),
    (b'{"v": 1}\n', b"bad_header"),
    (make_batch(0, 3)[:-1], b"wrong_length"),
    (make_batch(0, 3) + b"x", b"wrong_length"),
    (make_batch(0, 1, {"node": "n2"}), b"wrong_node"),
]


def test_bad_batches_are_dead_letters_with_reason_and_position_and_the_worker_goes_on(site: Site) -> None:
    service = site.start_enrich()
    for number, (value, _) in enumerate(BAD):
        site.send(value)
        site.send(make_batch(number * 5, 5))
    site.flush()
    raw = f"{site.prefix}.verdicts.raw"
    sent = {
        (one.partition(), one.offset()): one.value()
        for one in site.read("verdicts.raw", lambda f: len(f) >= 2 * len(BAD))
    }
    dead = site.read("dead", lambda found: len(found) >= len(BAD))
    assert len(dead) == len(BAD)
    for message, (value, reason) in zip(dead, BAD, strict=True):
        headers: Any = dict(message.headers() or [])
        assert (headers["reason"], headers["topic"]) == (reason, raw.encode())
        assert headers["error"]
        assert message.key() == b"/".join((raw.encode(), headers["partition"], headers["offset"]))
        assert (message.value() or b"") == (value or b"")
        assert (sent[int(headers["partition"]), int(headers["offset"])] or b"") == (value or b"")
    assert ids(site.read_flows(5 * len(BAD))) == [f"r1-{number}" for number in range(5 * len(BAD))]
    assert service.metric('kubeweir_streams_dead_letters_total{reason="bad_header"}') == 3
    assert service.stop() == 0


def test_kill_9_loses_nothing_and_repeats_have_the_same_id(site: Site) -> None:
    total, size = 120, 500
    service = site.start_enrich()
    for number in range(total):
        site.send(make_batch(number * size, size))
    site.flush()
    until(lambda: service.metric("kubeweir_streams_read_verdicts_total") > 2 * size or None, "some rows")
    for _ in range(2):
        service.process.send_signal(signal.SIGKILL)
        service.process.wait()
        service = site.start_enrich()
    flows = site.read_flows(total * size)
    assert set(ids(flows)) == {f"r1-{number}" for number in range(total * size)}
    first_seen = [int(name.split("-")[1]) for name in dict.fromkeys(ids(flows))]
    assert first_seen == sorted(first_seen), "rows of one pod come in rising numbers"
    assert service.stop() == 0


def test_a_second_worker_takes_partitions_over_and_nothing_is_lost(site: Site) -> None:
    first = site.start_enrich()
    rings = [f"ring{number}" for number in range(8)]
    for number in range(80):
        for ring in rings:
            site.send(make_batch(number * 50, 50, {"ring": ring}), key=f"c1/n1/{ring}")
        if number == 40:
            site.flush()
            second = site.start_enrich()
    site.flush()
    flows = site.read_flows(80 * 50 * len(rings))
    assert set(ids(flows)) == {f"{ring}-{number}" for ring in rings for number in range(80 * 50)}
    assert second.metric("kubeweir_streams_read_verdicts_total") > 0, "the second worker had nothing to do"
    assert second.stop() == 0
    assert first.stop() == 0
    for service in (first, second):
        assert not [line for line in service.lines() if line["event"] == "verdicts lost"], "a false gap"


def test_batches_not_acknowledged_at_a_stop_are_read_at_the_next_start(site: Site) -> None:
    service = site.start_enrich()
    for number in range(60):
        site.send(make_batch(number * 500, 500))
    site.flush()
    until(lambda: service.metric("kubeweir_streams_read_verdicts_total") > 0 or None, "some rows")
    assert service.stop() == 0
    assert service.log.read_text().count('"event": "stopped"') == 1, service.log.read_text()
    again = site.start_enrich()
    flows = site.read_flows(60 * 500)
    assert len(set(ids(flows))) == 60 * 500
    assert len(flows) == 60 * 500, "a clean stop repeats nothing"
    assert again.stop() == 0


def test_a_record_that_the_broker_refuses_harms_no_other_of_its_batch(site: Site) -> None:
    admin = AdminClient({"bootstrap.servers": site.broker})
    topic = NewTopic(f"{site.prefix}.flows", 4, 1, config={"message.timestamp.before.max.ms": "3600000"})
    admin.create_topics([topic])[topic.topic].result(120)
    service = site.start_enrich()
    verdicts = make_rows(20)
    verdicts["time_ns"][::2] -= 7_200_000_000_000
    site.send(encode_batch(make_header(0, 20), verdicts))
    site.send(make_batch(20, 5))
    site.flush()
    flows = site.read_flows(15)
    assert set(ids(flows)) == {f"r1-{number}" for number in [*range(1, 20, 2), *range(20, 25)]}
    dead = site.read("dead", lambda found: len(found) >= 10)
    assert {dict(message.headers() or [])["reason"] for message in dead} == {b"refused"}
    refused = {orjson.loads(message.value() or b"")["id"] for message in dead}
    assert refused == {f"r1-{number}" for number in range(0, 20, 2)}
    # Records that were refused for a neighbour are overtaken by later ones, and are no repeats nevertheless.
    for first in range(25, 1525, 50):
        verdicts = make_rows(50)
        verdicts["time_ns"][7] -= 7_200_000_000_000 if first % 100 == 25 else 0
        site.send(encode_batch(make_header(first, 50), verdicts))
    site.flush()
    flows = site.read_flows(15 + 1500 - 15)
    seen, read = Deduplicator(), RecordCounter([]).read_flow
    repeats = [seen.is_repeat(read(orjson.dumps(one))) for one in flows]
    assert repeats.count(True) == len(flows) - len(set(ids(flows)))
    assert service.stop() == 0


def test_a_deleted_topic_stops_the_worker_with_exit_code_5(site: Site) -> None:
    service = site.start_enrich()
    admin = AdminClient({"bootstrap.servers": site.broker})
    name = f"{site.prefix}.flows"
    admin.delete_topics([name])[name].result(120)
    site.send(make_batch(0, 5))
    site.flush()
    assert service.process.wait(240) == 5
    assert "Traceback" not in service.log.read_text()


def test_gaps_losses_and_heartbeats_reach_the_status_topic(site: Site) -> None:
    service = site.start_enrich()
    site.send(make_batch(0, 10))
    site.send(make_batch(15, 10, {"lost": {"ring_full": (3, 3)}}))
    site.send(make_batch(15, 10, {"lost": {"ring_full": (3, 3)}}))
    site.send(make_batch(25, 0))
    site.flush()
    told = [orjson.loads(one.value() or b"") for one in site.read("status", lambda found: len(found) >= 3)]
    assert [one["type"] for one in told] == ["gap", "lost", "heartbeat"]
    assert (told[0]["first"], told[0]["verdicts"]) == (10, 5)
    assert (told[1]["reason"], told[1]["verdicts"]) == ("ring_full", 3)
    assert service.metric("kubeweir_streams_gap_verdicts_total") == 5
    assert service.metric('kubeweir_streams_lost_verdicts_total{reason="ring_full"}') == 3


def test_topics_are_created_as_needed_and_differences_are_reported(site: Site) -> None:
    admin = AdminClient({"bootstrap.servers": site.broker})
    wrong = NewTopic(f"{site.prefix}.flows", 1, 1, config={"cleanup.policy": "compact"})
    admin.create_topics([wrong])[wrong.topic].result(120)
    service = site.start_enrich()
    [problem] = [line for line in service.lines() if "differs from what the service needs" in line["event"]]
    assert problem["topic"] == wrong.topic
    assert len(problem["problems"]) == 2
    raw = ConfigResource(ResourceType.TOPIC, f"{site.prefix}.verdicts.raw")
    config = admin.describe_configs([raw])[raw].result(120)
    assert config["message.timestamp.type"].value == "LogAppendTime"
    assert config["retention.ms"].value == str(86_400_000)
    assert len(admin.list_topics(timeout=120).topics[raw.name].partitions) == 4


def test_without_kafka_it_waits_reports_it_and_can_be_stopped(site: Site) -> None:
    service = site.start("enrich", "--alone", WEIR_KAFKA="127.0.0.1:1")
    service.wait_for("Kafka cannot be reached; retrying")
    status, text = service.get("/readyz")
    assert (status, "kafka" in text) == (503, True)
    assert service.get("/healthz")[0] == 200
    assert service.stop() == 0
    assert "Traceback" not in service.log.read_text()


def test_a_wrong_setting_exits_with_2_and_is_named(site: Site) -> None:
    service = site.start("enrich", WEIR_PARTITIONS="many")
    assert service.process.wait(240) == 2
    assert "WEIR_PARTITIONS" in service.log.read_text()


def test_a_taken_port_exits_with_4(site: Site) -> None:
    first = site.start("enrich", "--alone", WEIR_KAFKA="127.0.0.1:1")
    port = first.wait_for("starting")["metrics_port"]
    second = site.start("enrich", WEIR_METRICS=f"127.0.0.1:{port}")
    assert second.process.wait(240) == 4
    assert "another process may use it" in second.log.read_text()


def test_the_end_of_a_transaction_is_not_a_batch_that_waits(site: Site) -> None:
    service = site.start_enrich(WEIR_STALL="2")
    producer = Producer({"bootstrap.servers": site.broker, "transactional.id": site.prefix})
    producer.init_transactions(30)
    producer.begin_transaction()
    producer.produce(f"{site.prefix}.verdicts.raw", make_batch(0, 5), b"c1/n1/r1")
    producer.commit_transaction(30)
    site.read_flows(5)
    name = f'kubeweir_streams_group_lag_records{{group="{site.prefix}.c1.enrich"}}'
    # The mark that ends it has an offset, which is never committed. It waits until the client is asked what is there.
    until(lambda: service.metric(name) >= 1 or None, "the mark")
    until(lambda: service.metric(name) == 0 or None, "no batch")
    assert service.get("/readyz")[0] == 200
    assert service.stop() == 0
