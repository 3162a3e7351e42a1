"""`weir doctor` at a real Kafka: topics, heartbeats and versions; rights that are missing; a password that is wrong."""

from __future__ import annotations

import json
import secrets
import threading
import time

import msgspec
import pytest
from click.testing import CliRunner
from confluent_kafka import Producer
from confluent_kafka.admin import AclOperation, ResourceType

from enrich.runtime.version import version_text
from enrich.wire.tally import NodeState
from streams.cli.main import command
from streams.kafka.topics import prepare_topics
from streams.settings import Settings
from tests.kafka.guarded import GuardedBroker
from tests.kafka.site import until
from tests.streams.cli.test_custody import record

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(600)]
Findings = dict[str, list[tuple[str, str]]]
"""Levels and texts, by what they are about."""


def doctor(env: dict[str, str], *arguments: str) -> tuple[int, Findings]:
    """Return the exit code, and levels and texts by what they are about."""
    words = ["doctor", "-o", "json", "--timeout", "120", *arguments]
    result = CliRunner().invoke(command, words, env={"WEIR_SOURCE": "manifests:nowhere", **env})
    assert result.stdout, (result.stderr, result.exception)
    found: Findings = {}
    for one in json.loads(result.stdout)["findings"]:
        found.setdefault(one["about"], []).append((one["level"], one["text"]))
    return result.exit_code, found


def doctor_once_groups_have_coordinators(env: dict[str, str], *arguments: str) -> tuple[int, Findings]:
    """Return the same of a broker that may have been started just now: its first groups have no coordinator yet."""

    def answer() -> tuple[int, Findings] | None:
        code, found = doctor(env, *arguments)
        return None if any("COORDINATOR" in text for _, text in found["rights"]) else (code, found)

    return until(answer, "the coordinators of groups", 300)


def test_a_site_that_works_has_no_problem_and_every_line_has_its_node_and_version(broker: str) -> None:
    prefix = f"t{secrets.token_hex(4)}"
    settings = Settings(kafka=broker, prefix=prefix, partitions=4)
    assert prepare_topics(settings.connection(), settings.topics, 1, threading.Event())
    now_ns = time.time_ns()
    said = record(state=NodeState(version="1.2.3"))
    said = msgspec.structs.replace(said, worker="w1", version=version_text(), cluster="c1",
                                   tally=msgspec.structs.replace(said.tally, at=now_ns, every=600))  # fmt: skip
    producer = Producer(settings.connection())
    producer.produce(settings.topics.status.name, msgspec.json.encode(said))
    producer.flush()
    code, found = doctor_once_groups_have_coordinators({}, "--kafka", broker, "--topic-prefix", prefix)
    assert code == 0, found
    # The probe has another version than this command.
    [(level, text)] = found[f"node {said.node}"]
    assert level == "warning"
    assert text.startswith("probe 1.2.3, last heard of at ")
    assert found["workers"] == [("ok", f"w1 {version_text()}")]
    assert found[f"Kafka {broker}"] == [("ok", "answers User:ANONYMOUS")]
    assert found["rights"][0][0] == "ok"
    [(level, text)] = found[f"{prefix}.*"]
    assert (level, text.partition(",")[0]) == ("ok", "topics with their partitions: verdicts.raw 4")
    assert found["clock"] == [("ok", "no record is from the future of this machine's clock")]
    # Who writes a record sets its time: this one's clock is ten minutes ahead.
    ahead_ms = now_ns // 1_000_000 + 600_000
    producer.produce(settings.topics.status.name, msgspec.json.encode(said), timestamp=ahead_ms)
    producer.flush()
    code, found = doctor({}, "--kafka", broker, "--topic-prefix", prefix)
    assert (code, found["clock"][0][0]) == (1, "problem")


def test_each_topic_of_a_prefix_without_a_writer_is_named(broker: str) -> None:
    prefix = f"t{secrets.token_hex(4)}"
    code, found = doctor({"WEIR_KAFKA": broker}, "--topic-prefix", prefix)
    assert code == 1
    [(level, text)] = found[f"{prefix}.verdicts.raw"]
    assert (level, "has weir-streams run with this WEIR_KAFKA" in text) == ("problem", True)
    assert found[f"{prefix}.pairs"][0][0] == "ok"


def test_a_wrong_password_and_missing_rights_are_named(guarded: GuardedBroker) -> None:
    user, env = guarded.user()
    prefix = f"t{secrets.token_hex(4)}"
    env |= {"WEIR_TOPIC_PREFIX": prefix}
    code, found = doctor({**env, "WEIR_KAFKA_PASSWORD": "x"})
    assert code == 1
    [(level, text)] = found[f"Kafka {guarded.address}"]
    assert (level, f"the password of the user {user!r} is wrong" in text) == ("problem", True)
    assert "rights" not in found
    guarded.allow(user, ResourceType.TOPIC, f"{prefix}.", AclOperation.READ)
    guarded.allow(user, ResourceType.GROUP, f"{prefix}.", AclOperation.READ)
    _, found = doctor_once_groups_have_coordinators(env)
    [(level, text)] = found["rights"]
    assert (level, f"User:{user} has every right" in text) == ("ok", True)
    # Of a topic that is not there Kafka says only that, if the user may see it.
    for name in ("verdicts.raw", "endpoints"):
        guarded.create(f"{prefix}.{name}")
    _, found = doctor(env, "--for", "probe")
    assert [level for level, _ in found["rights"]] == ["problem", "problem"]
    assert f"User:{user} has no right WRITE on the topic {prefix}.endpoints: kafka-acls --add" in found["rights"][0][1]
