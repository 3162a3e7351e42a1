"""The commands of `weir` name the cause when a real Kafka refuses them, as the services do."""

from __future__ import annotations

import secrets
from pathlib import Path

import pytest
from click.testing import CliRunner

from streams.cli.main import command
from tests.kafka.guarded import GuardedBroker
from tests.streams.cli.patience import give_up_after, with_routes

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(900)]


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let commands give up soon where librdkafka would try again."""
    give_up_after(1.0, 2.0, monkeypatch)


def refused(env: dict[str, str], *arguments: str) -> str:
    """Run a command that Kafka refuses, and return what it says."""
    result = CliRunner().invoke(command, arguments, env={**env, "WEIR_CLUSTER": "c1"})
    assert result.exit_code == 1, (result.output, result.exception)
    return result.stderr


@pytest.mark.parametrize(
    "arguments",
    [("observe",), ("dead", "list"), ("alerts", "test", "--kafka"), ("routes", "groups", "ROUTES")],
)
def test_a_wrong_password_is_named(guarded: GuardedBroker, arguments: tuple[str, ...], tmp_path: Path) -> None:
    user, env = guarded.user()
    said = refused({**env, "WEIR_KAFKA_PASSWORD": "x"}, *with_routes(arguments, tmp_path))
    assert f"the password of the user {user!r} is wrong" in said


def test_a_missing_right_is_named_and_not_taken_for_a_missing_topic(guarded: GuardedBroker) -> None:
    prefix = f"t{secrets.token_hex(4)}"
    for name in ("flows", "flows.denied", "dead"):
        guarded.create(f"{prefix}.{name}")
    user, env = guarded.user()
    env |= {"WEIR_TOPIC_PREFIX": prefix}
    right = f"User:{user} has no right READ on the"
    assert f"{right} topic {prefix}.flows:" in refused(env, "observe")
    assert f"{right} topic {prefix}.dead:" in refused(env, "dead", "list")
