"""A right is taken back from a probe that runs: it stays up, names the right, and goes on when it has it again."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka.admin import AclBinding, AclOperation, NewTopic, ResourceType

from enrich.runtime.connection import KafkaSettings
from enrich.runtime.settings import load
from enrich.wire.topics import topics
from probe.export.interval_publisher import AddressIntervalPublisher
from probe.export.publisher import Publisher
from probe.export.spool import Spool
from tests.kafka.batches import make_batch
from tests.kafka.guarded import GuardedBroker
from tests.probe.export.spooling import append
from tests.waiting import until

pytestmark = pytest.mark.kafka

STALL_S = 0.2
"""So short that a probe that took the refusals for a stall would end within the test."""


class Probe:
    """Both publishers of a probe, with a user of their own on topics that exist."""

    def __init__(self, guarded: GuardedBroker, folder: Path, *, may_look: bool, may_write_elsewhere: bool) -> None:
        self.guarded, names = guarded, topics(f"t{secrets.token_hex(4)}", 4)
        self.topics = names.raw, names.endpoints
        made = [NewTopic(one.name, one.partitions, config=dict(one.config)) for one in self.topics]
        for future in guarded.admin.create_topics(made).values():
            future.result(30)
        self.user, self.env = guarded.user()
        if may_look:
            self._allow(AclOperation.DESCRIBE)
        if may_write_elsewhere:
            # Else Kafka gives an idempotent producer no number.
            guarded.allow(self.user, ResourceType.TOPIC, "other", AclOperation.WRITE)
        self.acls = self._allow(AclOperation.WRITE)
        connection = load(KafkaSettings, self.env).connection()
        self.spool, self.given = Spool(folder / "spool"), 0
        self.batches = Publisher(self.spool, names.raw, connection, STALL_S)
        self.intervals = AddressIntervalPublisher(names.endpoints, connection, STALL_S)
        self.batches.start()

    def _allow(self, operation: AclOperation) -> list[AclBinding]:
        return [
            acl
            for topic in self.topics
            for acl in self.guarded.allow(self.user, ResourceType.TOPIC, topic.name, operation, prefixed=False)
        ]

    def give(self) -> None:
        append(self.spool, make_batch(self.given * 10, 10))
        self.intervals.publish({b"c1/n1/10.0.0.1/%d" % self.given: b"{}"})
        self.given += 1

    def has_sent_all(self) -> bool:
        problems = self.batches.problem, self.intervals.problem
        sent = self.spool.unacked_batches == 0 and self.intervals.published == self.given
        return sent and problems == (None, None)

    def names_the_right(self) -> bool:
        problems = [self.batches.problem or "", self.intervals.problem or ""]
        return all(
            f"no right WRITE on the topic {topic.name}: kafka-acls --add" in problem
            for topic, problem in zip(self.topics, problems, strict=True)
        )


@pytest.fixture
def probe(guarded: GuardedBroker, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Probe]:
    made = Probe(guarded, tmp_path, may_look="seen" in request.param, may_write_elsewhere="elsewhere" in request.param)
    yield made
    made.batches.stop(0)
    made.intervals.stop(0)
    made.spool.close()


@pytest.mark.parametrize("probe", ["seen_elsewhere", "elsewhere", "seen", "unknown"], indirect=True)
def test_a_right_that_is_taken_back_is_named_and_costs_nothing_once_it_is_back(probe: Probe) -> None:
    probe.give()
    until(probe.has_sent_all)
    probe.guarded.revoke(probe.acls)
    probe.give()
    until(probe.names_the_right)
    probe.give()
    # Later attempts are refused, too; after so many stalls a probe that cannot send would have ended.
    until(lambda: probe.batches.refusal.total + probe.intervals.refusal.total >= 3 or probe.batches._stall.seconds > 4)
    assert not probe.batches.failed.is_set()
    assert probe.intervals.dropped == {"refused": 0, "queue_full": 0}
    assert probe.spool.unacked_batches == 2
    probe._allow(AclOperation.WRITE)
    until(probe.has_sent_all)


@pytest.mark.parametrize("probe", ["seen"], indirect=True)
def test_a_user_who_may_not_log_in_any_more_is_waited_for(probe: Probe) -> None:
    probe.give()
    until(probe.has_sent_all)
    wrong = load(KafkaSettings, probe.env | {"WEIR_KAFKA_PASSWORD": "wrong"}).connection()
    probe.batches.renew(wrong)
    probe.intervals.renew(wrong)
    until(lambda: probe.batches._broken == "")
    probe.give()
    until(lambda: "Kafka has acknowledged nothing for" in (probe.batches.problem or ""))
    until(lambda: probe.intervals.problem is not None)
    assert not probe.batches.failed.is_set()
    right = load(KafkaSettings, probe.env).connection()
    probe.batches.renew(right)
    probe.intervals.renew(right)
    until(probe.has_sent_all)
    # A certificate that is half written when it is renewed makes no client at all.
    broken = {**right, "ssl.ca.location": "/dev/null/ca.crt"}
    probe.batches.renew(broken)
    probe.intervals.renew(broken)
    until(lambda: "makes no client" in (probe.batches.problem or ""))
    probe.give()
    until(lambda: probe.intervals.problem is not None)
    assert not probe.batches.failed.is_set()
    probe.batches.renew(right)
    probe.intervals.renew(right)
    until(probe.has_sent_all)
