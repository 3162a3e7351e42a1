"""Pairs on real Kafka: each verdict is counted once, also if workers are killed, frozen or replaced."""

from __future__ import annotations

import signal
import time
from collections import Counter

import pytest
from confluent_kafka import Consumer, ConsumerGroupTopicPartitions, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from enrich.history.counted_time import Stretch
from enrich.wire.batch import encode_batch
from enrich.wire.pair import Pair
from enrich.wire.topics import topics
from streams.cli.pairs_reading import read_pairs
from tests.kafka.batches import make_batch, make_header, make_rows
from tests.kafka.site import Service, Site, until
from tests.waiting import freeze

pytestmark = pytest.mark.kafka


def pairs_of(site: Site) -> list[Pair]:
    """All pairs of the last two hours."""
    hour = int(time.time()) // 3600
    return list(read_pairs(site.connection, topics(site.prefix, 4), hour - 2, hour + 2))


def verdicts_of(site: Site) -> int:
    return sum(pair.verdicts for pair in pairs_of(site))


def test_pairs_count_what_the_flows_have(site: Site) -> None:
    service = site.start_enrich(WEIR_PAIRS="1", WEIR_PAIRS_FLUSH="1")
    for number in range(20):
        site.send(make_batch(number * 50, 50, destination_port=8080 + number % 2), f"c1/n1/r{number % 5}")
    rows = make_rows(30, denied=True, ingress=True)
    rows["count"] = 7
    site.send(encode_batch(make_header(5000, 30), rows))
    site.flush()

    site.read_flows(100)
    until(lambda: verdicts_of(site) == 1030, lambda: f"1030 verdicts: {pairs_of(site)}")

    keys = {(pair.key.port, pair.key.verdict): pair.key for pair in pairs_of(site)}
    verdicts: Counter[tuple[int, str]] = Counter()
    packets: Counter[tuple[int, str]] = Counter()
    for pair in pairs_of(site):  # a full hour may have passed meanwhile, and then some come twice
        verdicts[pair.key.port, pair.key.verdict] += pair.verdicts
        packets[pair.key.port, pair.key.verdict] += pair.packets
    assert verdicts == {(8080, "allow"): 500, (8081, "allow"): 500, (8080, "deny"): 30}
    assert packets == {(8080, "allow"): 500, (8081, "allow"): 500, (8080, "deny"): 210}
    key = keys[8080, "allow"]
    assert (key.subject.namespace, key.direction, key.reason, key.protocol) == ("shop", "egress", "policy", 6)
    assert key.subject.profile
    assert key.peer.profile
    assert key.policies[0].name == "web-allow-api"
    assert key.policies[0].rule == 0
    assert service.stop() == 0
    assert "pairs" not in {line.get("problem") for line in service.lines()}


def send(site: Site, batches: range, size: int = 20) -> None:
    """Send batches of eight rings, in all partitions."""
    for number in batches:
        ring = f"r{number % 8}"
        site.send(make_batch(number // 8 * size, size, {"ring": ring}), f"c1/n1/{ring}")
    site.flush()


def offsets(site: Site, group: str) -> int:
    """Return the sum of a group's committed offsets."""
    consumer = Consumer({**site.connection, "group.id": f"{site.prefix}.c1.{group}"})
    found = consumer.committed([TopicPartition(f"{site.prefix}.verdicts.raw", number) for number in range(4)], 60)
    consumer.close()
    return sum(max(0, one.offset) for one in found)


def set_back(site: Site) -> None:
    """Set the committed offsets of the enricher to the beginning, as if it had not committed yet."""
    places = [TopicPartition(f"{site.prefix}.verdicts.raw", number, 0) for number in range(4)]
    group = ConsumerGroupTopicPartitions(f"{site.prefix}.c1.enrich", places)

    admin = AdminClient(site.connection)

    def is_done() -> bool:
        try:
            return bool(admin.alter_consumer_group_offsets([group])[group.group_id].result(120))
        except (KafkaException, TimeoutError):
            return False  # the broker has not noticed yet that the worker is gone

    until(is_done, "the offsets set back")


def kill(service: Service) -> None:
    service.process.send_signal(signal.SIGKILL)
    service.process.wait()


def test_verdicts_that_were_committed_and_not_written_are_counted_by_the_next_worker(site: Site) -> None:
    service = site.start_enrich(WEIR_PAIRS="1", WEIR_PAIRS_FLUSH="2")
    send(site, range(40))
    until(lambda: verdicts_of(site) == 800, "the first 800")
    kill(service)
    service = site.start_enrich(WEIR_PAIRS="1", WEIR_PAIRS_FLUSH="600")
    until(lambda: offsets(site, "pairs") == 40, "the marks")
    send(site, range(40, 100))
    until(lambda: offsets(site, "enrich") == 100, "the commits of all")
    assert offsets(site, "pairs") < 100
    kill(service)

    site.start_enrich(WEIR_PAIRS="1", WEIR_PAIRS_FLUSH="1")
    send(site, range(100, 110))

    until(lambda: verdicts_of(site) == 2200, lambda: f"2200 verdicts: {verdicts_of(site)}")
    ids = [flow["id"] for flow in site.read_flows(2200)]
    assert len(ids) == len(set(ids)) == 2200, "an input that is only counted makes no second record"


def test_verdicts_that_were_written_and_not_committed_are_not_counted_again(site: Site) -> None:
    service = site.start_enrich(WEIR_PAIRS="1", WEIR_PAIRS_FLUSH="1")
    send(site, range(40))
    until(lambda: offsets(site, "pairs") == 40, "the marks of all")
    kill(service)
    set_back(site)

    site.start_enrich(WEIR_PAIRS="1", WEIR_PAIRS_FLUSH="1")
    send(site, range(40, 50))

    until(lambda: offsets(site, "pairs") == 50, "the marks")
    assert verdicts_of(site) == len({flow["id"] for flow in site.read_flows(1000)}) == 1000


def test_a_worker_that_wakes_up_after_another_took_over_counts_nothing_twice(site: Site) -> None:
    frozen = site.start_enrich(WEIR_PAIRS="1", WEIR_PAIRS_FLUSH="3")
    send(site, range(40))
    until(lambda: offsets(site, "enrich") == 40, "the commits")
    freeze(frozen.process.pid)
    try:
        second = site.start_enrich(WEIR_PAIRS="1", WEIR_PAIRS_FLUSH="1")
        send(site, range(40, 80))
        until(lambda: verdicts_of(site) == 1600, lambda: f"1600 verdicts: {verdicts_of(site)}")
    finally:
        frozen.process.send_signal(signal.SIGCONT)
    send(site, range(80, 120))
    until(lambda: offsets(site, "pairs") == 120, "the marks of both")

    assert verdicts_of(site) == 2400
    assert (second.stop(), frozen.stop()) == (0, 0)
    assert verdicts_of(site) == 2400


def test_two_workers_that_come_and_go_count_each_verdict_once(site: Site) -> None:
    first = site.start_enrich(WEIR_PAIRS="1", WEIR_PAIRS_FLUSH="2")
    send(site, range(40))
    second = site.start_enrich(WEIR_PAIRS="1", WEIR_PAIRS_FLUSH="2")
    send(site, range(40, 120))
    assert first.stop() == 0
    send(site, range(120, 200))
    until(lambda: offsets(site, "enrich") == 200, "the commits of all")
    assert second.stop() == 0

    assert offsets(site, "pairs") == 200, "a stop writes what is counted"
    assert verdicts_of(site) == 4000


def holes_of(site: Site, since: float) -> list[Stretch]:
    """Return when pairs were not counted, from a time up to now."""
    hour = int(time.time()) // 3600
    reading = read_pairs(site.connection, topics(site.prefix, 4), hour - 2, hour + 2)
    assert list(reading)
    return reading.counted.holes("c1", int(since), int(time.time()))


def forget_marks(site: Site) -> None:
    """Forget the marks, as Kafka does a week after the last worker that counts has stopped."""
    group, admin = f"{site.prefix}.c1.pairs", AdminClient(site.connection)

    def is_done() -> bool:
        try:
            admin.delete_consumer_groups([group])[group].result(120)
        except (KafkaException, TimeoutError) as error:
            # The answer to the request before may have been late.
            return isinstance(error, KafkaException) and error.args[0].code() == KafkaError.GROUP_ID_NOT_FOUND
        return True

    until(is_done, "the marks forgotten")


def test_a_worker_that_did_not_count_leaves_no_hole_if_the_next_one_can_count_its_inputs(site: Site) -> None:
    began = time.time() - 600
    service = site.start_enrich(WEIR_PAIRS="1", WEIR_PAIRS_FLUSH="1")
    send(site, range(40))
    until(lambda: verdicts_of(site) == 800, "the first 800")
    assert service.stop() == 0
    service = site.start_enrich(WEIR_PAIRS="0")
    send(site, range(40, 80))
    until(lambda: offsets(site, "enrich") == 80, "the commits")
    assert service.stop() == 0
    turned_on = time.time()

    site.start_enrich(WEIR_PAIRS="1", WEIR_PAIRS_FLUSH="1")
    until(lambda: verdicts_of(site) == 1600, lambda: f"1600 verdicts: {verdicts_of(site)}")

    assert all(hole.since_s >= int(turned_on) for hole in holes_of(site, began)), "only the last moments"


def test_a_time_whose_marks_kafka_has_forgotten_is_said_not_to_be_counted(site: Site) -> None:
    began = time.time() - 600
    service = site.start_enrich(WEIR_PAIRS="1", WEIR_PAIRS_FLUSH="1")
    send(site, range(40))
    until(lambda: verdicts_of(site) == 800, "the first 800")
    assert service.stop() == 0
    turned_off = time.time()
    service = site.start_enrich(WEIR_PAIRS="0")
    send(site, range(40, 80))
    until(lambda: offsets(site, "enrich") == 80, "the commits")
    assert service.stop() == 0
    forget_marks(site)
    turned_on = time.time()

    site.start_enrich(WEIR_PAIRS="1", WEIR_PAIRS_FLUSH="1")
    until(lambda: offsets(site, "pairs") == 80, "new marks")
    send(site, range(80, 88))
    until(lambda: verdicts_of(site) == 960, lambda: f"960 verdicts, none of those between: {verdicts_of(site)}")

    first = holes_of(site, began)[0]
    assert began < first.since_s <= turned_off
    assert first.until_s >= int(turned_on)


def test_a_topic_of_pairs_that_cannot_be_written_holds_no_flow_up(site: Site) -> None:
    service = site.start_enrich(WEIR_PAIRS="1", WEIR_PAIRS_FLUSH="1")
    until(lambda: service.get("/readyz") == (200, "ok\n"), "the first write")
    admin, topic = AdminClient(site.connection), f"{site.prefix}.pairs"
    admin.delete_topics([topic])[topic].result(120)
    send(site, range(20))

    assert len(site.read_flows(400)) == 400
    until(lambda: "pairs are counted, but not written" in service.get("/readyz")[1], "the problem")
    assert service.get("/readyz")[0] == 200
    assert service.metric("kubeweir_streams_pairs_failed_writes_total") >= 1
    status = site.read("status", lambda found: any(b"pairs_failed" in (one.value() or b"") for one in found))
    assert status

    admin.create_topics([NewTopic(topic, 1)])[topic].result(120)
    until(lambda: verdicts_of(site) == 400, lambda: f"400 verdicts: {service.get('/readyz')}")


def test_it_can_be_switched_off(site: Site) -> None:
    service = site.start_enrich(WEIR_PAIRS="0")
    send(site, range(4))

    assert len(site.read_flows(80)) == 80
    assert service.metric("kubeweir_streams_pairs_counted_verdicts_total") == 0
    assert service.stop() == 0
