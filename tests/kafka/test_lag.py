"""The lag that is measured at a broker, of groups for which nothing is left to read. The broker checks rights."""

from __future__ import annotations

import re
import secrets
import threading

import pytest
from confluent_kafka import Consumer, ConsumerGroupTopicPartitions, Producer, TopicPartition
from confluent_kafka.admin import AclOperation, AdminClient, NewTopic, ResourceType
from prometheus_client import CollectorRegistry

from enrich.diagnosis.rights import Cause
from enrich.runtime.connection import KafkaSettings
from enrich.runtime.process import StopServiceError
from enrich.runtime.settings import load
from streams.kafka.followed import Followed
from streams.kafka.lag import LagMonitor
from streams.metrics.progress import ProgressMetrics
from tests.kafka.guarded import GuardedBroker
from tests.kafka.site import make_again
from tests.waiting import until

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(900)]

_STALL_S = 1.0


def _topic(broker: str) -> str:
    """Make a topic of one partition with one record, and return its name."""
    name, connection = f"t{secrets.token_hex(4)}", {"bootstrap.servers": broker}
    admin, producer = AdminClient(connection), Producer(connection)
    admin.create_topics([NewTopic(name, 1)])[name].result(120)
    producer.produce(name, b"1")
    assert producer.flush(120) == 0
    return name


def _reader(broker: str, group: str, topic: str) -> Consumer:
    """Return a member of a group that has read a record, and never commits by itself."""
    made = Consumer(
        {"bootstrap.servers": broker, "group.id": group, "auto.offset.reset": "earliest", "enable.auto.commit": False}
    )
    made.subscribe([topic])
    until(lambda: made.poll(0.1) is not None)
    return made


def test_a_group_is_not_stalled_by_what_retention_has_removed(guarded: GuardedBroker) -> None:
    topic = f"t{secrets.token_hex(4)}"
    group = f"{topic}.group"
    guarded.create(topic)
    admin = guarded.admin
    user, env = guarded.user()
    guarded.allow(user, ResourceType.TOPIC, topic, AclOperation.READ)
    guarded.allow(user, ResourceType.GROUP, group, AclOperation.READ)
    producer = Producer({**guarded.connection(), "log_level": 0})
    for number in range(10):
        producer.produce(topic, str(number))
    assert producer.flush(120) == 0
    committed = ConsumerGroupTopicPartitions(group, [TopicPartition(topic, 0, 5)])
    registry = CollectorRegistry()
    monitor = LagMonitor(load(KafkaSettings, env).connection(), _STALL_S, ProgressMetrics(registry))
    monitor.follow(Followed(group, [topic], lambda: [(topic, 0)]))

    def lag() -> float | None:
        return registry.get_sample_value("kubeweir_streams_group_lag_records", {"group": group})

    def is_committed() -> bool:
        # The broker's coordinator of groups may not be ready at first.
        admin.alter_consumer_group_offsets([committed])[group].result(120)
        return lag() == 5

    monitor.start(lambda: None)
    try:
        until(is_committed)
        until(lambda: "no progress" in (monitor.problem() or ""))
        admin.delete_records([TopicPartition(topic, 0, 10)])[TopicPartition(topic, 0)].result(120)
        until(lambda: lag() == 0)
        until(lambda: monitor.problem() is None)
    finally:
        monitor.stop()


def test_a_worker_that_stands_by_is_not_blamed_for_what_another_one_reads(broker: str) -> None:
    topic = _topic(broker)
    group = f"{topic}.group"
    owner = _reader(broker, group, topic)
    monitor = LagMonitor({"bootstrap.servers": broker}, _STALL_S, ProgressMetrics(CollectorRegistry()))
    monitor.follow(Followed(group, [topic], list))
    monitor.follow(Followed(f"{topic}.nobody", [topic], list))
    monitor.start(lambda: None)
    try:
        until(lambda: f"{topic}.nobody has made no progress" in (monitor.problem() or ""))
        assert f"{group} has made" not in (monitor.problem() or "")
        owner.close()
        # Now this worker should get the partition, and does not.
        until(lambda: f"{group} has made no progress" in (monitor.problem() or ""))
    finally:
        monitor.stop()


def test_the_process_ends_after_a_long_stall_unless_a_restart_would_not_help(broker: str) -> None:
    topic, ended, causes = _topic(broker), threading.Event(), [Cause("no right READ")]
    monitor = LagMonitor({"bootstrap.servers": broker}, 0.2, ProgressMetrics(CollectorRegistry()), lambda: causes)
    monitor.follow(Followed(f"{topic}.group", [topic], lambda: [(topic, 0)]))
    monitor.start(ended.set)
    try:
        # 15 times the limit, while it is 5 times.
        until(lambda: re.search(r"no progress for ([3-9]|\d\d) s", monitor.problem() or "") is not None)
        assert not ended.is_set()
        monitor.check()
        causes.clear()
        until(ended.is_set)
        with pytest.raises(StopServiceError, match=r"1 records wait in 1 partitions .*; restarting, with new clients"):
            monitor.check()
    finally:
        monitor.stop()


@pytest.mark.parametrize("missing", ["from_the_start", "taken_back"])
def test_a_group_that_kafka_refuses_leaves_the_other_groups_of_its_role_as_they_are(
    guarded: GuardedBroker, missing: str
) -> None:
    topic, ended = f"t{secrets.token_hex(4)}", threading.Event()
    guarded.create(topic)
    user, env = guarded.user()
    guarded.allow(user, ResourceType.TOPIC, topic, AclOperation.READ)
    guarded.allow(user, ResourceType.GROUP, f"{topic}.good", AclOperation.READ)
    refused = guarded.allow(user, ResourceType.GROUP, f"{topic}.refused", AclOperation.READ)
    producer = Producer({**guarded.connection(), "log_level": 0})
    producer.produce(topic, b"1")
    assert producer.flush(120) == 0
    causes = [Cause("no right READ on the group", f"{topic}.refused")]
    metrics = ProgressMetrics(CollectorRegistry())
    monitor = LagMonitor(load(KafkaSettings, env).connection(), _STALL_S, metrics, lambda: causes)
    for group in (f"{topic}.refused", f"{topic}.good"):
        monitor.follow(Followed(group, [topic], lambda: [(topic, 0)]))
    if missing == "from_the_start":
        guarded.revoke(refused)
    monitor.start(ended.set)
    try:
        if missing == "taken_back":
            until(lambda: f"{topic}.refused has made no progress" in (monitor.problem() or ""))
            guarded.revoke(refused)
        text = f"{topic}.refused cannot be measured: Broker: Group authorization failed"
        until(lambda: text in (monitor.problem() or ""))
        # What stalls for long ends the process, so that it gets new clients; no restart would help the refused group.
        until(ended.is_set)
        with pytest.raises(StopServiceError, match=rf"^{topic}\.good has made no progress .*; restarting"):
            monitor.check()
        guarded.allow(user, ResourceType.GROUP, f"{topic}.refused", AclOperation.READ)
        until(lambda: "cannot be measured" not in (monitor.problem() or ""))
    finally:
        monitor.stop()


def test_a_missing_topic_is_a_stall_because_the_next_start_makes_it(broker: str) -> None:
    topic, ended = f"t{secrets.token_hex(4)}", threading.Event()
    monitor = LagMonitor({"bootstrap.servers": broker}, 0.2, ProgressMetrics(CollectorRegistry()))
    monitor.follow(Followed(f"{topic}.group", [topic], list))
    monitor.start(ended.set)
    try:
        until(lambda: f"{topic}: it does not exist" in (monitor.problem() or ""))
        until(ended.is_set)
        with pytest.raises(StopServiceError, match="has had nothing to read for"):
            monitor.check()
    finally:
        monitor.stop()


def test_a_group_begins_anew_in_a_topic_that_was_made_again(broker: str) -> None:
    topic, ended = _topic(broker), threading.Event()
    group, connection = f"{topic}.group", {"bootstrap.servers": broker}
    reader = _reader(broker, group, topic)
    registry = CollectorRegistry()
    monitor = LagMonitor(connection, _STALL_S, ProgressMetrics(registry))
    monitor.follow(Followed(group, [topic], lambda: [(topic, 0)]))
    monitor.start(ended.set)
    try:
        until(lambda: registry.get_sample_value("kubeweir_streams_group_lag_records", {"group": group}) is not None)
        make_again(AdminClient(connection), topic, 1)
        until(ended.is_set)
        # What a client commits that has noticed nothing.
        reader.commit(offsets=[TopicPartition(topic, 0, 1)], asynchronous=False)
        reader.close()
        monitor.stop()
        with pytest.raises(StopServiceError, match="deleted and made again"):
            monitor.check()
        asked = Consumer({**connection, "group.id": group})
        assert [one.offset for one in asked.committed([TopicPartition(topic, 0)], 10)] == [0]
        asked.close()
    finally:
        monitor.stop()
