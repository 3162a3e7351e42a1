"""A broker that is alone and stands still for seconds, as on a machine that is busy with something else."""

from __future__ import annotations

import contextlib
import secrets
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from streams.kafka.exactly_once import ExactlyOnce, TransactionAbortedError, Write
from tests.kafka.movable import MovableBroker
from tests.waiting import until

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(900)]

_FROZEN_S = 12
"""Longer than Kafka's own limit of a broker, 9 s, and than a transaction by default."""


class Copy:
    """A worker that reads a topic and writes to it, with a patience."""

    def __init__(self, connection: dict[str, str], topic: str, patience: int) -> None:
        group = f"{topic}.{patience}"
        self._topic, self._assigned = topic, threading.Event()
        self._transactions = ExactlyOnce(
            connection, group, [topic], group, lambda _: 1 << 42, lambda own: self._assigned.set() if own else None,
            patience=patience,
        )  # fmt: skip
        assert self._transactions.start(threading.Event())
        until(self._has_partitions)
        self.commit()

    def _has_partitions(self) -> bool:
        self._transactions.take(10, 0.1)
        return self._assigned.is_set()

    def commit(self) -> None:
        self._transactions.commit([Write(self._topic, None, b"x")])

    def close(self) -> None:
        self._transactions.close()


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[MovableBroker]:
    with contextlib.closing(MovableBroker(tmp_path)) as made:
        made.start()
        yield made


def leader_epoch(connection: dict[str, str], topic: str) -> int:
    """Write a record and return the leader's epoch that it has: a number that rises with each new leader."""
    producer = Producer(connection)
    producer.produce(topic, b"x")
    assert producer.flush(120) == 0
    with contextlib.closing(Consumer({**connection, "group.id": topic, "enable.auto.commit": False})) as reader:
        _, end = reader.get_watermark_offsets(TopicPartition(topic, 0), 120)
        reader.assign([TopicPartition(topic, 0, end - 1)])
        message = reader.poll(120)
    assert message is not None
    assert message.error() is None
    return message.leader_epoch() or 0


def test_it_keeps_its_partitions_and_a_patient_worker_its_transaction(broker: MovableBroker) -> None:
    """By default, the broker fences itself: then each partition is without a leader for seconds."""
    connection = {"bootstrap.servers": broker.address, "log_level": "0"}
    topic, other = f"t{secrets.token_hex(4)}", f"t{secrets.token_hex(4)}"
    admin = AdminClient(connection)
    for made in admin.create_topics([NewTopic(topic, 1), NewTopic(other, 1)]).values():
        made.result(120)
    before = leader_epoch(connection, topic)
    with contextlib.ExitStack() as stack:
        impatient, patient = (
            stack.enter_context(contextlib.closing(Copy(connection, other, patience))) for patience in (1, 4)
        )
        pool = stack.enter_context(ThreadPoolExecutor(2))
        with broker.frozen():
            commits = [pool.submit(one.commit) for one in (impatient, patient)]
            time.sleep(_FROZEN_S)
        with pytest.raises(TransactionAbortedError):
            commits[0].result()
        commits[1].result()
        patient.commit()
    assert leader_epoch(connection, topic) == before
