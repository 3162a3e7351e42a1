"""Transactions that nobody ends: the roles name them, wait, and go on by themselves once they have ended."""

from __future__ import annotations

import contextlib
import re
import secrets
import threading
import time
from collections.abc import Iterator

import pytest
from confluent_kafka import ConsumerGroupTopicPartitions, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic
from prometheus_client import CollectorRegistry

from streams.kafka.connection import ReadError
from streams.kafka.followed import Followed
from streams.kafka.group_positions import group_positions
from streams.kafka.lag import LagMonitor
from streams.kafka.lasting_transactions import unreadable_yet
from streams.kafka.reading import read_committed
from streams.kafka.topics import prepare_topics
from streams.metrics.progress import ProgressMetrics
from streams.settings import Settings
from tests.kafka.batches import make_batch
from tests.kafka.site import Service, Site
from tests.kafka.test_doctor import doctor
from tests.kafka.transactions import LeftOpen
from tests.waiting import until

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(900)]

_STALL_S = 0.5


class Group:
    """A group that has committed everything of a topic of one partition, and is measured."""

    def __init__(self, broker: str) -> None:
        self.topic, self.connection = f"t{secrets.token_hex(4)}", {"bootstrap.servers": broker}
        self.name, self._admin = f"{self.topic}.group", AdminClient(self.connection)
        self._admin.create_topics([NewTopic(self.topic, 1)])[self.topic].result(120)
        self.write(5)
        self.commit(5)
        self._registry, self.ended = CollectorRegistry(), threading.Event()
        self.monitor = LagMonitor(self.connection, _STALL_S, ProgressMetrics(self._registry))

    def write(self, records: int) -> None:
        _produce(self.connection, self.topic, *[b"record"] * records)

    def commit(self, offset: int) -> None:
        committed = ConsumerGroupTopicPartitions(self.name, [TopicPartition(self.topic, 0, offset)])

        def is_taken() -> bool:
            # The broker's coordinator of groups may not be ready at first.
            answer = self._admin.alter_consumer_group_offsets([committed])[self.name].result(120)
            return all(one.error is None for one in answer.topic_partitions)

        until(is_taken)

    def follow(self, *, reads_uncommitted: bool = False) -> None:
        followed = Followed(self.name, [self.topic], lambda: [(self.topic, 0)], reads_uncommitted=reads_uncommitted)
        self.monitor.follow(followed)
        self.monitor.start(self.ended.set)

    def lag(self) -> float | None:
        return self._registry.get_sample_value("kubeweir_streams_group_lag_records", {"group": self.name})

    def blocked(self) -> str:
        return self.monitor.blocked() or ""


@pytest.fixture
def group(broker: str) -> Iterator[Group]:
    made = Group(broker)
    yield made
    made.monitor.stop()


def test_what_is_behind_an_open_transaction_is_lag_with_a_cause_and_no_reason_to_restart(group: Group) -> None:
    with LeftOpen(group.connection) as transaction:
        assert transaction.write(group.topic) == 5
        group.write(2)
        group.follow()
        until(lambda: group.lag() == 3)
        until(lambda: _seconds(group.blocked()) > 6 * _STALL_S)
        assert re.match(
            rf"what is behind offset 5 of {group.topic} \[0\] cannot be read since \d{{4}}-\S+Z \(\d+ s\), because a "
            r"transaction has not ended",
            group.blocked(),
        )
        assert f"abort --topic {group.topic} --partition 0 --start-offset 5" in group.blocked()
        # On a busy machine, one answer takes longer than the limit of this test.
        assert "has made no progress" not in (group.monitor.problem() or "")
        assert not group.ended.is_set()
        (text,) = unreadable_yet(group.connection, group.topic)
        assert text.startswith(f"what is behind offset 5 of {group.topic} [0] cannot be read since")
    until(lambda: group.blocked() == "")
    assert unreadable_yet(group.connection, group.topic) == []
    # What nobody reads now is a stall as ever.
    until(lambda: "has made no progress" in (group.monitor.problem() or ""))
    group.commit(9)
    until(lambda: group.lag() == 0 and group.monitor.problem() is None)


def test_who_reads_uncommitted_records_waits_for_no_transaction(group: Group) -> None:
    with LeftOpen(group.connection) as transaction:
        transaction.write(group.topic)
        group.commit(6)
        group.write(2)
        group.follow(reads_uncommitted=True)
        until(lambda: group.lag() == 2)
        until(lambda: "2 records wait" in (group.monitor.problem() or ""))
        assert group.blocked() == ""


def test_offsets_that_a_transaction_holds_back_are_named_and_the_group_is_measured(group: Group) -> None:
    with LeftOpen(group.connection) as transaction:
        transaction.commit_offsets(group.name, [TopicPartition(group.topic, 0, 4)])
        group.write(2)
        group.follow()
        # What is committed, and not what the transaction would make of it.
        until(lambda: group.lag() == 2)
        text = re.compile(
            rf"the committed offsets of the group {group.name} cannot be read since \S+Z(?: or earlier)? \(\d+ s\), "
            r"because a transaction \(in __consumer_offsets \[(\d+)\] from offset (\d+)\) has not ended"
        )
        # The offsets of a worker that another test has killed may be in the same partition.
        until(lambda: text.match(group.blocked()))
        found = text.match(group.blocked())
        assert found
        command = f"abort --topic __consumer_offsets --partition {found[1]} --start-offset {found[2]}"
        assert command in group.blocked()
        assert not group.ended.is_set()
        (position,) = group_positions(group.connection, [group.name], [group.topic])
        assert position.error == "a transaction that has not ended holds its offsets back: see weir doctor"
    until(lambda: group.blocked() == "")


def test_the_alerts_wait_for_offsets_that_are_held_back_and_go_on_without_a_restart(site: Site) -> None:
    service = _alerts(site)
    until(lambda: service.get("/readyz", "alerts")[0] == 200)
    assert service.stop() == 0
    group = f"{site.prefix}.c1.alerts.count"
    with LeftOpen(site.connection) as transaction:
        transaction.commit_offsets(group, [TopicPartition(f"{site.prefix}.flows.denied", 0, 0)])
        service = _alerts(site)
        text = f"alerts: the committed offsets of the group {group} cannot be read since"
        # A thread that does not work ends the role after 30 s.
        until(lambda: _seconds(_readyz(service, text)) > 45)
        assert service.process.poll() is None
        assert len(_logged(service)) == 1
    until(lambda: service.get("/readyz", "alerts")[0] == 200)
    assert service.process.poll() is None


def test_the_alerts_wait_for_deltas_behind_a_transaction_and_go_on_without_a_restart(site: Site) -> None:
    site.start_enrich()
    service = _alerts(site)
    until(lambda: service.get("/readyz", "alerts")[0] == 200)
    topic = f"{site.prefix}.alerts.deltas"
    with contextlib.ExitStack() as stack:
        begin = [stack.enter_context(LeftOpen(site.connection)).write(topic, partition) for partition in range(4)]
        site.send(make_batch(0, 60, denied=True))
        site.flush()
        text = f"what is behind offset {begin[3]} of {topic} [3] cannot be read since"
        until(lambda: _seconds(_readyz(service, text)) > 20)
        assert "--partition 3 --start-offset" in _readyz(service, text)
        assert _lag(service) > 4
    until(lambda: service.get("/readyz", "alerts")[0] == 200)
    assert site.read("alerts", lambda found: len(found) > 0)
    until(lambda: _lag(service) == 0)
    assert service.process.poll() is None
    assert len(_logged(service)) == 4


def test_a_state_behind_a_transaction_is_read_when_that_has_ended_and_never_in_part(group: Group) -> None:
    topic, connection = group.topic, group.connection
    with LeftOpen(connection) as transaction:
        assert transaction.write(topic) == 5
        group.write(1)
        text = rf"{topic} cannot be read to its end: what is behind offset 5 of {topic} \[0\] cannot be read since"
        with pytest.raises(ReadError, match=text):
            list(read_committed(connection, topic, [0]))
        found: list[int] = []

        def read() -> None:
            for one in read_committed(connection, topic, [0]):
                found.append(one.offset)

        reader = threading.Thread(target=read)
        reader.start()
        until(lambda: len(found) == 5)
    reader.join()
    assert found == [0, 1, 2, 3, 4, 6]


def test_doctor_names_what_lasts_with_the_command_that_ends_it(broker: str) -> None:
    settings = Settings(kafka=broker, prefix=f"t{secrets.token_hex(4)}", partitions=2)
    assert prepare_topics(settings.connection(), settings.topics, 1, threading.Event())
    topic, group = settings.topics.deltas.name, settings.group("alerts.engine")

    def found() -> dict[str, str]:
        words = ("--kafka", broker, "--topic-prefix", settings.prefix)
        return {text: level for level, text in doctor({}, *words)[1]["transactions"]}

    with LeftOpen({"bootstrap.servers": broker}) as transaction:
        # A producer chooses the times of its records.
        offset = transaction.write(topic, 1, at=time.time() - 3600)
        transaction.write(topic, 0)
        transaction.commit_offsets(group, [TopicPartition(topic, 0, 0)])
        levels = found()
        of_group, young, old = sorted(levels)
    assert of_group.startswith(f"the committed offsets of the group {group} cannot be read since")
    assert (levels[young], levels[old]) == ("warning", "problem")
    assert "It may end by itself: look again in 60 s" in young
    assert f"abort --topic {topic} --partition 1 --start-offset {offset}" in old
    until(lambda: set(found().values()) == {"ok"})


def _produce(connection: dict[str, str], topic: str, *values: bytes) -> None:
    producer = Producer(connection)
    for value in values:
        producer.produce(topic, value, partition=0)
    assert producer.flush(120) == 0


def _alerts(site: Site) -> Service:
    return site.start("alerts", "--alone", WEIR_STALL="2", WEIR_ALERT_LEARN="0")


def _readyz(service: Service, text: str) -> str:
    """Return the page from ``text`` on; empty if it does not say so."""
    assert service.process.poll() is None, service.log.read_text()
    status, page = service.get("/readyz", "alerts")
    return page[page.index(text) :] if status == 503 and text in page else ""


def _lag(service: Service) -> float:
    """Return the lag of the engine's group, as the role measures it."""
    found = re.search(r"^kubeweir_streams_group_lag_records\{group=\S+alerts.engine\"\} (\S+)$",
                      service.get("/metrics", "alerts")[1], re.MULTILINE)  # fmt: skip
    return float(found[1]) if found else -1.0


def _logged(service: Service) -> list[object]:
    event = "readers wait for a transaction that has not ended"
    return [line for line in service.lines() if line["event"] == event]


def _seconds(text: str) -> int:
    found = re.search(r"\((\d+) s\)", text)
    return int(found[1]) if found else -1
