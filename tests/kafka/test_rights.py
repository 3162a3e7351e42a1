"""Apache's StandardAuthorizer with exactly the rights of the list: all works, and without each right something fails.

Each right has a case of its own, so that a right that nothing needs any longer, or that is missing in the list, has a
name in the report.
"""

from __future__ import annotations

import itertools
import json
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import structlog
from click.testing import CliRunner, Result
from confluent_kafka import Producer
from confluent_kafka.admin import AclBinding, AclOperation, NewTopic, ResourceType

from enrich.runtime.connection import KafkaSettings
from enrich.runtime.process import StopServiceError
from enrich.runtime.settings import load
from enrich.wire.address_interval import encode_interval
from enrich.wire.rights import PRINCIPALS, RIGHTS, Principal, Right
from enrich.wire.topics import Topic, topics
from probe.export.interval_publisher import AddressIntervalPublisher
from probe.export.publisher import Publisher
from probe.export.spool import Spool
from streams.cli.main import command
from streams.journal.reading import read_journal
from streams.kafka.connection import Connection, ReadError
from streams.kafka.exactly_once import ExactlyOnce, TransactionAbortedError, Write
from streams.kafka.group import GroupReader
from streams.kafka.producer import RecordProducer
from streams.kafka.reading import TopicReader
from streams.kafka.topics import prepare_topics
from tests.kafka.batches import make_batch, write_manifests
from tests.kafka.guarded import GuardedBroker
from tests.kafka.hook import Hook
from tests.kafka.site import PATIENCE_S, Site, ids_of
from tests.kafka.test_alerts import ALL, BURST
from tests.kafka.test_history import make_interval
from tests.probe.export.spooling import append
from tests.waiting import until

pytestmark = pytest.mark.kafka

_KINDS = {
    "topic": ResourceType.TOPIC, "group": ResourceType.GROUP, "transactionalId": ResourceType.TRANSACTIONAL_ID,
}  # fmt: skip
_OPERATIONS = {
    "Read": AclOperation.READ, "Write": AclOperation.WRITE, "DescribeConfigs": AclOperation.DESCRIBE_CONFIGS,
}  # fmt: skip
_CLUSTER = "c1"
_READ_WITHOUT_GROUP = ("endpoints", "alerts.state")
_QUICK_S = 120.0


@dataclass
class Granted:
    """Topics of a prefix, and one user of each principal with exactly its rights."""

    broker: GuardedBroker
    prefix: str
    env: dict[Principal, dict[str, str]]
    acls: dict[Right, list[AclBinding]]

    def connection(self, principal: Principal) -> Connection:
        return load(KafkaSettings, self.env[principal]).connection()

    def topic(self, name: str) -> Topic:
        return next(topic for topic in topics(self.prefix, 4) if topic.name == f"{self.prefix}.{name}")


@pytest.fixture
def granted(guarded: GuardedBroker) -> Granted:
    """Topics of their own for the story of all services."""
    return _made(guarded)


def _made(guarded: GuardedBroker) -> Granted:
    prefix = f"t{secrets.token_hex(4)}"
    new = [NewTopic(one.name, one.partitions, config=dict(one.config)) for one in topics(prefix, 4)]
    for future in guarded.admin.create_topics(new).values():
        future.result(120)
    users = {principal: guarded.user() for principal in PRINCIPALS}
    acls = {right: _grant(guarded, users[right.principal][0], prefix, right) for right in RIGHTS}
    return Granted(guarded, prefix, {principal: env for principal, (_, env) in users.items()}, acls)


def _grant(guarded: GuardedBroker, user: str, prefix: str, right: Right) -> list[AclBinding]:
    name = right.full_name(prefix, _CLUSTER)
    return guarded.allow(user, _KINDS[right.resource], name, _OPERATIONS[right.operation], prefixed=right.prefixed)


@pytest.mark.timeout(900)  # all services, and each command of readers one after another
def test_everything_works_with_exactly_these_rights(granted: Granted, hook: Hook, tmp_path: Path) -> None:
    write_manifests(tmp_path / "manifests")
    administrator = granted.broker.connection()
    site = Site(granted.broker.address, granted.prefix, tmp_path, administrator)
    routes = {
        "name": "all",
        "match": {"verdict": "deny"},
        "outputs": [{"file": {"path": str(tmp_path / "denied.log")}}],
    }
    (tmp_path / "routes.yaml").write_text(json.dumps({"version": 1, "routes": [routes]}))
    hooks = [{"name": "hook", "webhook": {"url": hook.url}}]
    alerts = {"version": 1, "rules": [BURST], "outputs": hooks, "disable": ALL}
    (tmp_path / "alerts.yaml").write_text(json.dumps(alerts))
    service = site.start(
        "enrich", "file", "routes", "alerts", "journal",
        **granted.env["workers"], WEIR_FILE_PATH=str(tmp_path / "all.log"), WEIR_PAIRS="1", WEIR_PAIRS_FLUSH="1",
        WEIR_ROUTES=str(tmp_path / "routes.yaml"), WEIR_ALERTS=str(tmp_path / "alerts.yaml"),
    )  # fmt: skip
    try:
        spool = Spool(tmp_path / "spool")
        publisher = Publisher(spool, granted.topic("verdicts.raw"), granted.connection("probe"))
        publisher.start()
        append(spool, make_batch(0, 60, denied=True))
        append(spool, make_batch(60, 40))
        append(spool, make_batch(100, 1, {"node": "n9"}))
        assert publisher.stop(PATIENCE_S), publisher.problem
        spool.close()
        assert _sends_intervals(granted, "probe")
        assert len(site.read_flows(100)) == 100
        until(lambda: len(ids_of(tmp_path / "all.log")) == 100)
        until(lambda: len(ids_of(tmp_path / "denied.log")) == 60)
        until(lambda: bool(hook.alerts))
        (dead,) = site.read("dead", bool)
        assert dict(dead.headers() or [])["reason"] == b"wrong_node"
        observe = [f"{sys.prefix}/bin/weir", "observe", "--last", "100", "--output", "json"]
        shown = subprocess.run(
            observe, env=site.env(**granted.env["readers"]), capture_output=True, text=True, check=True
        )
        assert shown.stdout.count('"disposition"') == 100, shown.stderr
        _see_positions_with_two_more_rights(granted, site)
        names = topics(granted.prefix, 4)
        until(lambda: any(one.kind == "Node" for one in read_journal(granted.connection("readers"), names)))
        _ask_every_question(site.env(**granted.env["readers"]), tmp_path)
        _see_which_rights_raw_verdicts_need(granted, site)
        for role in ("enrich", "file", "routes", "alerts", "journal"):
            until(lambda role=role: service.get("/readyz", role)[0] == 200)  # type: ignore[misc]  # mypy cannot type a default
        assert not [line for line in service.lines() if "DESCRIBE_CONFIGS" in line["event"]]
    finally:
        site.end()


def _see_positions_with_two_more_rights(granted: Granted, site: Site) -> None:
    def unknown() -> list[str]:
        arguments = [f"{sys.prefix}/bin/weir", "status", "-o", "json"]
        env = site.env(**granted.env["readers"])
        status = subprocess.run(arguments, env=env, capture_output=True, text=True, check=False)
        found: list[str] = json.loads(status.stdout)["unknown"]
        return found

    (text,) = unknown()
    assert "only a user with DESCRIBE on that topic and on the groups" in text
    user, describe = granted.env["readers"]["WEIR_KAFKA_USERNAME"], AclOperation.DESCRIBE
    granted.broker.allow(user, ResourceType.TOPIC, f"{granted.prefix}.verdicts.raw", describe)
    granted.broker.allow(user, ResourceType.GROUP, f"{granted.prefix}.{_CLUSTER}.", describe, prefixed=True)
    until(lambda: not unknown())


def _ask(env: dict[str, str], *arguments: str) -> Result:
    return CliRunner().invoke(command, arguments, env=env)


def _ask_every_question(env: dict[str, str], folder: Path) -> None:
    """Run every command that reads Kafka, and see in each answer that it has read."""
    names = ("old.yaml", "new.yaml", "alerts.yaml", "routes.yaml")
    old, new, alerts, routes = (str(folder / name) for name in names)
    for path, direction in ((old, "Ingress"), (new, "Egress")):
        Path(path).write_text(
            "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: nothing, namespace: shop}\n"
            f"spec: {{podSelector: {{}}, policyTypes: [{direction}]}}\n"
        )
    questions = {
        ("top", "--count", "1"): "records/s",
        ("explain", "shop/web-0", "shop/api-0:8080", "--at", "1s"): "as far as 1 address intervals go",
        ("explain", "r1-3"): "record r1-3: deny",
        ("verify",): "100 records read",
        ("backtest", new): "cannot say             2 pairs            100 connections",
        ("recommend",): "stay denied",
        ("policies",): "evidence: c1",
        ("diff", old, new): "the pairs are complete from",
        ("sql", "select 'n=' || count(*) from pairs"): "n=2",
        ("sql", "select 'n=' || count(*) from policies"): "n=",
        ("sql", "select 'n=' || count(*) from profiles"): "n=3",
        ("dead", "list"): "wrong_node",
        ("alerts", "test", alerts, "--kafka"): "1 alerts fired",
        ("routes", "groups", routes): "route.all.file: in use",
    }
    for question, read in questions.items():
        answer = _ask(env, *question)
        assert not _is_refused(answer.output), (question, answer.output)
        assert read in answer.output, (question, answer.output, answer.exception)


def _see_which_rights_raw_verdicts_need(granted: Granted, site: Site) -> None:
    """Readers need no right on raw verdicts, except for this question. It names one right that is missing, then the
    other."""
    user, topic = granted.env["readers"]["WEIR_KAFKA_USERNAME"], f"{granted.prefix}.verdicts.raw"

    def answered(text: str) -> Callable[[], bool]:
        arguments = ("sql", "select 'n=' || count(*) from verdicts")
        return lambda: text in _ask(site.env(**granted.env["readers"]), *arguments).output

    until(answered(f"User:{user} has no right READ on the topic {topic}"))
    granted.broker.allow(user, ResourceType.TOPIC, topic, AclOperation.READ, prefixed=False)
    until(answered(f"User:{user} has no right READ on the group {topic}.reader"))
    granted.broker.allow(user, ResourceType.GROUP, f"{topic}.reader", AclOperation.READ, prefixed=False)
    # Raw verdicts are as they were sent: also the one that claims another node's pod, which is no record.
    until(answered("n=101"))


def test_a_sink_that_may_write_no_dead_letters_waits_for_the_right(granted: Granted, tmp_path: Path) -> None:
    write_manifests(tmp_path / "manifests")
    administrator = granted.broker.connection()
    site = Site(granted.broker.address, granted.prefix, tmp_path, administrator)
    (right,) = [one for one in RIGHTS if (one.principal, one.name, one.operation) == ("workers", "dead", "Write")]
    outputs = [{"file": {"path": str(tmp_path / "all.log")}}]
    routes = {"version": 1, "routes": [{"name": "all", "outputs": outputs}]}
    (tmp_path / "routes.yaml").write_text(json.dumps(routes))
    service = site.start("routes", "--alone", **granted.env["workers"], WEIR_ROUTES=str(tmp_path / "routes.yaml"))
    try:
        until(lambda: service.get("/readyz", "routes")[0] == 200)
        granted.broker.revoke(granted.acls[right])
        producer = Producer({**administrator, "log_level": 0})
        producer.produce(f"{granted.prefix}.flows", b'{"cluster":"c1"}')
        assert producer.flush(PATIENCE_S) == 0
        service.wait_for("the destination cannot take records; retrying", sink="all.file")
        until(lambda: "no right WRITE on the topic" in service.get("/readyz", "routes")[1])
        assert service.get("/readyz", "routes")[0] == 503
        _grant(granted.broker, granted.env["workers"]["WEIR_KAFKA_USERNAME"], granted.prefix, right)
        (dead,) = site.read("dead", bool)
        assert dead.value() == b'{"cluster":"c1"}'
        until(lambda: service.get("/readyz", "routes")[0] == 200)
        assert service.process.poll() is None
    finally:
        site.end()


# --- what each right is for: each returns whether it could be done


def _is_refused(problem: str | None) -> bool:
    return problem is not None and ("has no right" in problem or "uthorization failed" in problem)


def _writes_batches(granted: Granted, principal: Principal, folder: Path) -> bool:
    spool = Spool(folder)
    publisher = Publisher(spool, granted.topic("verdicts.raw"), granted.connection(principal))
    publisher.start()
    append(spool, make_batch(0, 1))
    until(lambda: bool(publisher.acked_batches or publisher.failed.is_set() or _is_refused(publisher.problem)))
    done = publisher.stop(0)
    spool.close()
    return done


def _sends_intervals(granted: Granted, principal: Principal) -> bool:
    publisher = AddressIntervalPublisher(granted.topic("endpoints"), granted.connection(principal), stall_s=3)
    interval = make_interval("old", "10.0.0.98", time.time_ns())
    publisher.publish({interval.key: encode_interval(interval)})
    until(lambda: bool(publisher.published or _is_refused(publisher.problem)))
    publisher.stop(0)
    return publisher.published == 1


def _writes(connection: Connection, topic: str) -> bool:
    errors: list[object] = []
    producer = RecordProducer(connection)
    producer.start(errors.append)
    assert producer.offer(topic, b"k", b"{}", int(time.time() * 1000), lambda error, _: errors.append(error))
    until(lambda: bool(errors))
    producer.close()
    # A KafkaError cannot be compared with None.
    return errors[0] is None


def _reads(connection: Connection, topic: str) -> bool:
    """Read a topic of which the first record is there already."""
    try:
        reader = TopicReader(connection, topic, timeout_s=60.0)
        reader.start({partition: first for partition, (first, _) in reader.bounds().items()})
        deadline = time.monotonic() + _QUICK_S
        while time.monotonic() < deadline:
            if reader.take(1, 0.2):
                return True
    except ReadError:
        return False
    raise AssertionError(f"{topic}: no record and no error")


def _joins(connection: Connection, group: str, topic: str) -> bool:
    reader = GroupReader(connection, group, topic)
    deadline = time.monotonic() + _QUICK_S
    try:
        while time.monotonic() < deadline:
            if reader.take(1, 0.2):
                return True
            if _is_refused(reader.problem):
                return False
    except StopServiceError:
        return False
    finally:
        reader.close()
    raise AssertionError(f"{group}: no record and no error")


def _transacts(granted: Granted, name: str) -> bool:
    # Each time a group that has read nothing yet, or there would be no record for it.
    group = f"{granted.prefix}.{_CLUSTER}.alerts.count{secrets.token_hex(4)}"
    topic = f"{granted.prefix}.flows.denied"
    loop = ExactlyOnce(
        granted.connection("workers"), group, [topic], name, lambda _: int(time.time() * 1000), lambda _: None
    )
    try:
        assert loop.start(threading.Event())
        while not loop.take(1, 0.2):
            pass
        loop.commit([Write(f"{granted.prefix}.alerts", b"k", b"{}")])
    except (StopServiceError, TransactionAbortedError):
        return False
    finally:
        loop.close()
    return True


def _checks_settings(granted: Granted, right: Right, folder: Path) -> bool:
    """Return whether no warning says that the topic's settings could not be looked at."""
    with structlog.testing.capture_logs() as lines:
        if right.principal == "probe":
            assert _writes_batches(granted, "probe", folder), "it is a warning only"
        else:
            connection = granted.connection(right.principal)
            assert prepare_topics(connection, [granted.topic(right.name)], 0, threading.Event())
    return not any("DESCRIBE_CONFIGS" in line["event"] for line in lines)


def _attempt(granted: Granted, right: Right) -> Callable[[Path], bool]:
    """Return what does with the product's own client what the right is for."""
    connection, name = granted.connection(right.principal), right.full_name(granted.prefix, _CLUSTER)
    if right.operation == "DescribeConfigs":
        return lambda folder: _checks_settings(granted, right, folder)
    if name.endswith(".reader"):
        return lambda _: _reads(connection, name.removesuffix(".reader"))
    if right.resource == "group":
        return lambda _: _joins(connection, f"{name}{secrets.token_hex(4)}", f"{granted.prefix}.flows")
    if right.resource == "transactionalId":
        return lambda _: _transacts(granted, f"{name}{secrets.token_hex(4)}")
    if right.principal == "workers" and right.operation == "Read" and right.name not in _READ_WITHOUT_GROUP:
        return lambda _: _joins(connection, f"{granted.prefix}.{_CLUSTER}.{secrets.token_hex(4)}", name)
    if right.operation == "Read":
        return lambda _: _reads(connection, name)
    if right.principal == "workers":
        return lambda _: _writes(connection, name)
    if right.name == "endpoints":
        return lambda _: _sends_intervals(granted, right.principal)
    return lambda folder: _writes_batches(granted, right.principal, folder)


@pytest.fixture(scope="module")
def seeded(guarded: GuardedBroker) -> Granted:
    """Topics of their own with a record in each, for the cases."""
    made = _made(guarded)
    for topic in topics(made.prefix, 4):
        assert _writes(guarded.connection(), topic.name)
    return made


@pytest.mark.parametrize("right", RIGHTS, ids=lambda right: right.id)
def test_without_the_right_what_it_is_for_fails(seeded: Granted, right: Right, tmp_path: Path) -> None:
    attempt = _attempt(seeded, right)
    folders = (tmp_path / str(number) for number in itertools.count())
    assert attempt(next(folders)), f"it should be possible to {right.purpose}"
    seeded.broker.revoke(seeded.acls[right])
    try:
        if right.full_name("", "").endswith(".reader"):
            # A reader without a group does not wait for the coordinator: a record may arrive before the refusal.
            until(lambda: not attempt(next(folders)))
        else:
            assert not attempt(next(folders)), f"it is possible to {right.purpose} without the right"
    finally:
        user = seeded.env[right.principal]["WEIR_KAFKA_USERNAME"]
        seeded.acls[right] = _grant(seeded.broker, user, seeded.prefix, right)
