"""A member of a group that cannot do its work leaves it to others, and holds up none of them while a write lasts."""

from __future__ import annotations

import contextlib
import math
import secrets
import threading
from collections.abc import Callable, Iterator
from functools import partial

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AclOperation, AdminClient, NewTopic, ResourceType
from ports import free_port

from enrich.runtime.connection import KafkaSettings
from enrich.runtime.settings import load
from enrich.runtime.work_thread import start_work
from streams.kafka.connection import Connection
from streams.kafka.group import GroupReader
from tests.kafka.guarded import GuardedBroker
from tests.kafka.hook import Hook
from tests.kafka.site import Service, Site, until
from tests.kafka.test_alerts import ALL, BURST, send, write
from tests.waiting import until as until_true

pytestmark = pytest.mark.kafka

_PATIENCE_S = 0.5


def start(site: Site, path: str, url: str) -> Service:
    return site.start("alerts", "--alone", WEIR_ALERTS=path, WEIR_ALERT_LEARN="0", WEIR_STALL="2", HOOK=url)


@pytest.mark.timeout(900)
def test_the_owner_of_the_alerts_whose_output_is_out_of_its_reach_leaves_them_to_another_worker(
    site: Site, hook: Hook
) -> None:
    output = {"name": "hook", "webhook": {"url_env": "HOOK"}}
    path = write(site, {**BURST, "group_by": ["port"], "resolve_after": "1h"}, outputs=(output,), disable=ALL)
    site.start_enrich()
    cut_off = start(site, path, f"http://127.0.0.1:{free_port()}")
    until(lambda: cut_off.get("/readyz", "alerts")[0] == 200 or None, "readiness")
    send(site, 0, 50, destination_port=1)
    cut_off.wait_for("the destination cannot take records; retrying", sink="alerts.hook")
    until(lambda: cut_off.get("/readyz", "alerts")[0] == 503 or None, "what is wrong")
    well = start(site, path, hook.url)
    cut_off.wait_for("leaving the partitions to other workers, because this one fails")
    until(lambda: hook.alerts or None, "the alert from the other worker")
    status, page = cut_off.get("/readyz", "alerts")
    assert status == 503
    assert "it has left" in page
    # If the other worker ends, somebody must go on trying.
    well.process.kill()
    cut_off.wait_for("joining the group again")


@pytest.fixture
def topic(broker: str) -> str:
    """A topic of two partitions with a record in each."""
    name, connection = f"t{secrets.token_hex(4)}", {"bootstrap.servers": broker}
    admin = AdminClient(connection)
    admin.create_topics([NewTopic(name, 2)])[name].result(120)
    _fill(connection, name, 2)
    return name


def _fill(connection: Connection, topic: str, partitions: int) -> None:
    producer = Producer(dict(connection))
    for partition in range(partitions):
        producer.produce(topic, b"1", partition=partition)
    assert producer.flush(120) == 0


class Member:
    """A member of the topic's group, and how many partitions it has been given one time after the other."""

    def __init__(self, broker: str, topic: str, patience_s: float = math.inf) -> None:
        self.shares: list[int] = []
        self.reader = GroupReader(
            {"bootstrap.servers": broker}, f"{topic}.g", topic, lambda given: self.shares.append(len(given)),
            patience_s=patience_s,
        )  # fmt: skip

    def has(self, partitions: int) -> bool:
        """Poll once. Return whether it has so many partitions now."""
        self.reader.take(1, 0.1)
        return self.shares[-1:] == [partitions]

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Let its destination hang for the block."""
        until_true(lambda: self.has(2))
        released = threading.Event()
        done = start_work(partial(self.reader.during, lambda: released.wait(120)), "pump")
        try:
            yield
        finally:
            released.set()
            assert done.result(60)


@pytest.fixture
def members(broker: str, topic: str) -> Iterator[Callable[..., Member]]:
    """Makes members of the topic's group."""
    with contextlib.ExitStack() as stack:

        def make(**options: float) -> Member:
            made = Member(broker, topic, **options)
            stack.callback(made.reader.close)
            return made

        yield make


def test_a_write_that_hangs_keeps_no_rebalance_from_its_end(members: Callable[..., Member]) -> None:
    slow = members()
    with slow.writing():
        other = members()
        until_true(lambda: other.has(1))
        assert slow.shares == [2], "its sink is busy, and is not called"
    until_true(lambda: slow.has(1))
    assert slow.shares == [2, 0, 1]


def test_the_partitions_of_a_write_that_hangs_for_long_go_to_the_other_members(members: Callable[..., Member]) -> None:
    slow = members(patience_s=_PATIENCE_S)
    with slow.writing():
        other = members()
        until_true(lambda: other.has(2))
        assert "because it failed: a write has not ended for" in (slow.reader.problem or "")
    # After some time it takes its share again.
    until_true(lambda: [slow.has(1), other.has(1), slow.reader.problem] == [True, True, None])


def test_a_member_that_may_not_read_the_topic_leaves_it_to_one_that_may(guarded: GuardedBroker) -> None:
    topic = f"t{secrets.token_hex(4)}"
    guarded.create(topic)
    _fill(guarded.connection(), topic, 1)
    connections = []
    for operation in (AclOperation.DESCRIBE, AclOperation.READ):
        user, env = guarded.user()
        guarded.allow(user, ResourceType.TOPIC, topic, operation)
        guarded.allow(user, ResourceType.GROUP, topic, AclOperation.READ)
        connections.append(load(KafkaSettings, env).connection())
    with contextlib.ExitStack() as stack:
        blind = GroupReader(connections[0], f"{topic}.g", topic, patience_s=_PATIENCE_S)
        stack.callback(blind.close)
        until_true(lambda: not blind.take(1, 0.1) and "uthorization failed" in (blind.problem or ""))
        seeing = GroupReader(connections[1], f"{topic}.g", topic)
        stack.callback(seeing.close)
        until_true(lambda: not blind.take(1, 0.1) and bool(seeing.take(1, 0.1)))
        assert "it has left" in (blind.problem or "")
