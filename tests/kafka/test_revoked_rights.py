"""A right is taken back from a probe or a worker: it stays up, names the right, and goes on when it has it again."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from confluent_kafka import KafkaException, Producer
from confluent_kafka.admin import AclBinding, AclOperation, NewTopic, ResourceType

from enrich.runtime.connection import KafkaSettings
from enrich.runtime.settings import load
from enrich.wire.topics import topics
from streams.kafka.connection import Connection, ReadError
from streams.kafka.dead_letters import DeadLetters, NoDeadLettersError
from streams.kafka.producer import RecordProducer
from streams.kafka.records import Record
from streams.kafka.redrive import Resender
from tests.kafka.batches import make_batch, write_manifests
from tests.kafka.exporter import Exporter
from tests.kafka.guarded import GuardedBroker
from tests.kafka.site import Service, Site
from tests.waiting import until

pytestmark = pytest.mark.kafka

STALL_S = 0.2
"""So short that a refusal counted as a stall would replace the producer within the test."""
RECORD = Record(0, 7, b"k", b"v", 0)


class Probe(Exporter):
    """An exporter with a user of its own, on topics that exist."""

    def __init__(self, guarded: GuardedBroker, folder: Path, *, may_look: bool, may_write_elsewhere: bool) -> None:
        self.guarded, names = guarded, topics(f"t{secrets.token_hex(4)}", 4)
        self.topics = names.raw, names.endpoints
        made = [NewTopic(one.name, one.partitions, config=dict(one.config)) for one in self.topics]
        for future in guarded.admin.create_topics(made).values():
            future.result(120)
        self.user, self.env = guarded.user()
        if may_look:
            self._allow(AclOperation.DESCRIBE)
        if may_write_elsewhere:
            # Else Kafka gives an idempotent producer no number.
            guarded.allow(self.user, ResourceType.TOPIC, "other", AclOperation.WRITE)
        self.acls = self._allow(AclOperation.WRITE)
        super().__init__(names, load(KafkaSettings, self.env).connection(), folder, STALL_S)

    def _allow(self, operation: AclOperation) -> list[AclBinding]:
        return [
            acl
            for topic in self.topics
            for acl in self.guarded.allow(self.user, ResourceType.TOPIC, topic.name, operation, prefixed=False)
        ]

    def is_well(self) -> bool:
        """Return whether everything is sent, each interval once, and nothing is wrong."""
        return self.has_sent_all() and self.intervals.published == self.given and self.problems() == (None, None)

    def names_the_right(self) -> bool:
        return all(
            f"no right WRITE on the topic {topic.name}: kafka-acls --add" in (problem or "")
            for topic, problem in zip(self.topics, self.problems(), strict=True)
        )


@pytest.fixture
def probe(guarded: GuardedBroker, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Probe]:
    made = Probe(guarded, tmp_path, may_look="seen" in request.param, may_write_elsewhere="elsewhere" in request.param)
    yield made
    made.stop()


@pytest.mark.parametrize("probe", ["seen_elsewhere", "elsewhere", "seen", "unknown"], indirect=True)
def test_a_right_that_is_taken_back_is_named_and_costs_nothing_once_it_is_back(probe: Probe) -> None:
    probe.give()
    until(probe.is_well)
    probe.guarded.revoke(probe.acls)
    probe.give()
    until(probe.names_the_right)
    probe.give()
    # Later attempts are refused, too; a refusal counted as a stall would replace the producer by then.
    until(lambda: probe.batches.refusal.total + probe.intervals.refusal.total >= 3 or probe.batches._stall.seconds > 4)
    assert not probe.batches.failed.is_set()
    assert probe.intervals.dropped == {"refused": 0, "queue_full": 0}
    assert probe.spool.unacked_batches == 2
    probe._allow(AclOperation.WRITE)
    until(probe.is_well)


@pytest.mark.parametrize("probe", ["seen"], indirect=True)
def test_a_user_who_may_not_log_in_any_more_is_waited_for(probe: Probe) -> None:
    probe.give()
    until(probe.is_well)
    wrong = load(KafkaSettings, probe.env | {"WEIR_KAFKA_PASSWORD": "wrong"}).connection()
    probe.renew(wrong)
    until(lambda: probe.batches._broken == "")
    probe.give()
    until(lambda: "Kafka has acknowledged nothing for" in (probe.batches.problem or ""))
    until(lambda: probe.intervals.problem is not None)
    assert not probe.batches.failed.is_set()
    right = load(KafkaSettings, probe.env).connection()
    probe.renew(right)
    until(probe.is_well)
    # A certificate that is half written when it is renewed makes no client at all.
    broken = {**right, "ssl.ca.location": "/dev/null/ca.crt"}
    probe.renew(broken)
    until(lambda: "makes no client" in (probe.batches.problem or ""))
    probe.give()
    until(lambda: probe.intervals.problem is not None)
    assert not probe.batches.failed.is_set()
    probe.renew(right)
    until(probe.is_well)


@dataclass
class Permitted:
    """A site with services that may do everything with its topics and groups, until a test denies them something."""

    guarded: GuardedBroker
    site: Site
    user: str

    def deny(self, kind: ResourceType, name: str, operation: AclOperation) -> list[AclBinding]:
        """Deny an operation on what begins with the prefix and ``name``; the broker's ``revoke`` ends that."""
        return self.guarded.deny(self.user, kind, self.site.prefix + name, operation)

    def send(self, first: int) -> None:
        """Send a batch of five verdicts, of which the first has this number."""
        self.site.send(make_batch(first, 5))
        self.site.flush()

    def reads_on_without(self, denied: list[AclBinding], service: Service) -> None:
        """Take back what denies something; check that what was sent meanwhile is read, and that all is well."""
        self.guarded.revoke(denied)
        assert len(self.site.read_flows(5)) == 5
        until(lambda: service.get("/readyz")[0] == 200)
        assert service.stop() == 0


@pytest.fixture
def permitted(guarded: GuardedBroker, tmp_path: Path) -> Iterator[Permitted]:
    write_manifests(tmp_path / "manifests")
    prefix = f"t{secrets.token_hex(4)}"
    user, env = guarded.user()
    for every in (ResourceType.TOPIC, ResourceType.GROUP):
        guarded.allow(user, every, prefix, AclOperation.ALL)
    site = Site(guarded.address, prefix, tmp_path, guarded.connection(), {**env, "WEIR_CLUSTER": "c1"})
    yield Permitted(guarded, site, user)
    site.end()


def test_an_enricher_that_may_not_join_its_group_reads_once_it_may(permitted: Permitted) -> None:
    denied = permitted.deny(ResourceType.GROUP, ".c1.", AclOperation.READ)
    service = permitted.site.start("enrich", "--alone")
    refused = f"no right READ on the group {permitted.site.prefix}.c1.enrich"
    pages = [service.get("/readyz")]

    def is_refused() -> bool:
        pages.append(service.get("/readyz"))
        return refused in pages[-1][1]

    until(is_refused)
    assert {status for status, _ in pages} == {503}
    permitted.send(0)
    # Long before WEIR_STALL would end the process.
    permitted.reads_on_without(denied, service)


@pytest.mark.parametrize("sent", [0, 5], ids=["heartbeats", "commits"])
def test_an_enricher_whose_right_on_its_group_is_taken_back_reads_on_once_it_has_it(
    permitted: Permitted, sent: int
) -> None:
    site = permitted.site
    service = site.start_enrich()
    until(lambda: service.get("/readyz")[0] == 200)
    if sent:
        permitted.send(0)
        site.read_flows(sent)
    denied = permitted.deny(ResourceType.GROUP, "", AclOperation.READ)
    until(lambda: f"no right READ on the group {site.prefix}.c1.enrich" in service.get("/readyz")[1])
    assert "Kafka refuses this worker as a member of its group" in service.get("/readyz")[1]
    permitted.send(sent)
    permitted.guarded.revoke(denied)
    until(lambda: service.get("/readyz")[0] == 200)
    # What was not committed may come again.
    assert len({flow["id"] for flow in site.read_flows(sent + 5)}) == sent + 5
    assert service.stop() == 0


def test_an_enricher_that_may_not_read_its_topic_any_more_reads_on_once_it_may(permitted: Permitted) -> None:
    service = permitted.site.start_enrich()
    until(lambda: service.get("/readyz")[0] == 200)
    denied = permitted.deny(ResourceType.TOPIC, ".verdicts.raw", AclOperation.READ)
    refused = f"no right READ on the topic {permitted.site.prefix}.verdicts.raw"
    until(lambda: refused in service.get("/readyz")[1])
    permitted.send(0)
    permitted.reads_on_without(denied, service)


@pytest.mark.parametrize("topics", [".flows", "."], ids=["one topic", "every topic"])
def test_an_enricher_that_may_not_write_goes_on_once_it_may(permitted: Permitted, topics: str) -> None:
    denied = permitted.deny(ResourceType.TOPIC, topics, AclOperation.WRITE)
    service = permitted.site.start("enrich", "--alone")
    service.wait_for("partitions assigned")
    permitted.send(0)
    until(lambda: "Kafka takes no records until the right is given" in service.get("/readyz")[1])
    status, text = service.get("/readyz")
    assert (status, f"no right WRITE on the topic {permitted.site.prefix}.flows" in text) == (503, True)
    permitted.reads_on_without(denied, service)


def test_an_enricher_that_may_do_nothing_with_checkpoints_does_all_the_rest(permitted: Permitted) -> None:
    # As with the rights of a version that wrote none.
    permitted.deny(ResourceType.TOPIC, ".checkpoints", AclOperation.ALL)
    site = permitted.site
    service = site.start_enrich()
    for number in range(20):
        permitted.send(number * 5)
    flows = site.read_flows(100)
    assert sorted(int(flow["id"].removeprefix("r1-")) for flow in flows) == list(range(100))
    until(lambda: service.get("/readyz")[0] == 200)
    assert service.stop() == 0
    assert {line["event"].partition(":")[0] for line in service.lines() if line["level"] == "error"} == {
        "verdicts that vanish between two workers will not be noticed",
        "checkpoints cannot be read",
        "checkpoints cannot be written",
    }
    # What is finished was committed: the next worker reads none of it.
    again = site.start_enrich()
    permitted.send(100)
    assert len(site.read_flows(105)) == 105
    assert again.stop() == 0


def test_a_role_without_any_right_waits_for_its_rights(guarded: GuardedBroker, tmp_path: Path) -> None:
    write_manifests(tmp_path / "manifests")
    prefix = f"t{secrets.token_hex(4)}"
    user, env = guarded.user()
    site = Site(guarded.address, prefix, tmp_path, settings={**env, "WEIR_CLUSTER": "c1"})
    try:
        services = {role: site.start(role, "--alone") for role in ("enrich", "stdout", "alerts")}
        named = f"no right CREATE on the topic {prefix}"
        until(lambda: all(named in service.get("/readyz", role)[1] for role, service in services.items()))
        for kind in (ResourceType.TOPIC, ResourceType.GROUP, ResourceType.TRANSACTIONAL_ID):
            guarded.allow(user, kind, prefix, AclOperation.ALL)
        until(lambda: all(service.get("/readyz", role)[0] == 200 for role, service in services.items()))
        assert all(service.process.poll() is None for service in services.values())
    finally:
        site.end()


@pytest.fixture
def mute(guarded: GuardedBroker) -> tuple[str, str, Connection]:
    """A topic, and the name and the connection of a user who may write nothing at all: its idempotent producer gets no
    number, and can never go on."""
    topic = f"t{secrets.token_hex(4)}"
    guarded.create(topic)
    user, env = guarded.user()
    guarded.allow(user, ResourceType.TOPIC, topic, AclOperation.DESCRIBE)
    return topic, user, load(KafkaSettings, env).connection()


def test_each_record_is_answered_by_a_producer_that_cannot_go_on_and_its_callbacks_end(
    mute: tuple[str, str, Connection],
) -> None:
    topic, _, connection = mute
    producer, fatal, answers, lock = RecordProducer(connection), list[str](), list[object](), threading.Lock()

    def on_delivery(error: object, _message: object) -> None:
        with lock:
            answers.append(error)

    for number in range(20):
        assert producer.offer(topic, b"%d" % number, b"v", 0, on_delivery)
    producer.start(fatal.append)
    until(lambda: bool(fatal) and len(answers) == 20 and not lock.locked())
    assert producer._thread is not None
    assert producer._thread.is_alive()
    assert all("uthorization failed" in text for text in fatal)
    assert not [error for error in answers if error is None]
    producer.close()


@pytest.mark.parametrize("idle", [False, True], ids=["at once", "idle before"])
def test_dead_letters_of_a_user_who_may_write_nothing_at_all_wait_for_the_right(
    guarded: GuardedBroker, mute: tuple[str, str, Connection], idle: bool
) -> None:
    topic, user, connection = mute
    letters = DeadLetters(connection, topic, threading.Event())
    if idle:
        # What the client says about itself: nothing else tells that it was refused.
        until(lambda: "FATAL" in _produced(letters._producer, topic))
    with pytest.raises(NoDeadLettersError, match="uthorization failed"):
        letters.send("flows", RECORD, "refused", "why")
    with pytest.raises(ReadError, match="uthorization failed"):
        Resender(connection).send(topic, 0, b"k", b"v", [])
    guarded.allow(user, ResourceType.TOPIC, topic, AclOperation.WRITE)
    until(lambda: _is_sent(letters))
    Resender(connection).send(topic, 0, b"k", b"v", [])


def _is_sent(letters: DeadLetters) -> bool:
    try:
        return letters.send("flows", RECORD, "refused", "why")
    except NoDeadLettersError:
        return False


def _produced(producer: Producer, topic: str) -> str:
    """Return why a producer takes no record, an empty text if it takes one."""
    try:
        producer.produce(topic, b"v")
    except KafkaException as error:
        return str(error)
    return ""
